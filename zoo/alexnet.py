"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", NIPS 2012.

What the micro network keeps: five convolutions and three dense layers, two towers that meet
in the third convolution and in the dense layers (here as grouped convolutions), ReLU, local
response normalization, overlapping pooling, dropout. What it shrinks: everything else. What it
simplifies: the normalization runs over all channels, so that at the seam each tower's maps are
divided by a little of the other's.
"""

import torch
from torch import Tensor, nn


class LocalResponseNorm(nn.Module):
    """Divide each activation by a power of the energy of its neighboring channels.

    ``b_i = a_i / (k + alpha * sum_{|j - i| <= size // 2} a_j^2) ** beta`` (section 3.3 of the paper).

    The same function as :class:`torch.nn.LocalResponseNorm`, whose ``alpha`` is ``size`` times
    this one, because it averages where the paper sums. Here the sum over channels is a 1x1
    convolution with a band of ones and ``beta`` is fixed at 3/4, so that the power becomes two
    square roots: a whole training step of the micro AlexNet is several times faster on a CPU.

    Parameters
    ----------
    channels : int
        Channels of the input, shape ``(N, channels, H, W)``; the output has the same shape.
    size : int
        Number of neighboring channels in the sum.
    alpha, k : float
        As in the formula. The paper has ``alpha=1e-4`` for pixel values from 0 to 255; our inputs
        are divided by their standard deviation of about 57.4, and 57.4^2 * 1e-4 is 0.33.
    """

    def __init__(self, channels: int, size: int = 5, alpha: float = 0.33, k: float = 2.0) -> None:
        super().__init__()
        index = torch.arange(channels)
        band = (index[:, None] - index[None, :]).abs() <= size // 2
        self.register_buffer("band", band.float()[:, :, None, None], persistent=False)
        self.alpha, self.k = alpha, k

    def forward(self, x: Tensor) -> Tensor:
        energy = nn.functional.conv2d(x * x, self.band.to(x.dtype))
        inverse_root = (self.k + self.alpha * energy).rsqrt()
        return x * (inverse_root * inverse_root.sqrt())


class AlexNet(nn.Module):
    """The micro AlexNet: 1.5 M parameters, 56 M multiply-adds at 64x64.

    Each convolution has half as many filters as in the paper, each hidden dense layer an eighth of the units.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    dropout : float
        Probability of dropping an input of the two hidden dense layers. The paper has 0.5 for layers of 4,096 units
        and 90 epochs; layers an eighth as wide, trained for a sixth of the time, hardly start to learn with that.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``. The adaptive pooling does nothing
    at 64x64; it lets training begin on smaller images.
    """

    def __init__(self, num_classes: int = 200, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 48, kernel_size=7, stride=2, padding=3),
            nn.ReLU(inplace=True),
            LocalResponseNorm(48),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(48, 128, kernel_size=5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            LocalResponseNorm(128),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(128, 192, kernel_size=3, padding=1),  # the towers exchange information here
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 192, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 128, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(128 * 3 * 3, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, num_classes),
        )
        # The paper draws all weights with a standard deviation of 0.01, which suits layers with thousands of inputs. In
        # this narrow network the signal would die out on the way to the last layer, so the layers begin as He et al.
        # (2015) advise; but the first begins smaller, which leaves less noise in the filters that it learns.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.features[0].weight, std=0.03)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.classifier(x.flatten(1))
