"""ZFNet: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901).

What the micro network keeps of the changes that the paper made to AlexNet: smaller filters and a smaller stride in the
first layer, stride 2 in the second, one tower instead of two. The rest is AlexNet's: five convolutions and three dense
layers, ReLU, normalization across channels, overlapping pooling, dropout. What it shrinks: everything.
"""

from torch import Tensor, nn

from zoo.alexnet import LocalResponseNorm


class ZFNet(nn.Module):
    """The micro ZFNet: 1.0 M parameters, 55 M multiply-adds at 64x64.

    Where the micro AlexNet begins with 7x7 filters of stride 2, this one has 5x5 filters of stride 1.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    dropout : float
        Probability of dropping an input of the two hidden dense layers, as in :class:`zoo.alexnet.AlexNet`.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``. The adaptive pooling does nothing
    at 64x64; it lets training begin on smaller images.
    """

    def __init__(self, num_classes: int = 200, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            LocalResponseNorm(32),
            nn.Conv2d(32, 96, kernel_size=5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            LocalResponseNorm(96),
            nn.Conv2d(96, 128, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 128, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 96, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(96 * 3 * 3, 384),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(384, 384),
            nn.ReLU(inplace=True),
            nn.Linear(384, num_classes),
        )
        # He et al.'s initial weights, as in the micro AlexNet, but for the smaller first layer there.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.classifier(x.flatten(1))
