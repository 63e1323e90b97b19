"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
(arXiv 1409.1556).

What the micro network keeps: blocks of 3x3 convolutions with ReLU and a 2x2 pooling behind them, channels that grow
from block to block, three dense layers, no normalization at all. What it shrinks: four blocks instead of five, a
quarter of the channels (fewer in the last), dense layers of 256 units instead of 4,096.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class VGG(nn.Module):
    """The micro VGG, 12 layers: 0.8 M parameters, 54 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    blocks : sequence of pairs of int
        For each block the number of convolutions and their channels.
    dropout : float
        Probability of dropping an input of the two last dense layers. The paper has 0.5 for 4,096 units.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``. The adaptive pooling does nothing
    at 64x64; it lets training begin on smaller images.
    """

    def __init__(
        self,
        num_classes: int = 200,
        blocks: Sequence[tuple[int, int]] = ((2, 16), (2, 32), (2, 64), (3, 96)),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for count, width in blocks:
            for _ in range(count):
                self.features.extend([nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)])
                channels = width
            self.features.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 4 * 4, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )
        # The paper first trained a shallow network and continued from its weights; with the initial weights of
        # He et al. (2015), as in torchvision, all layers can be trained at once.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.classifier(x.flatten(1))
