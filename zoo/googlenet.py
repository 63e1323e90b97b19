"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (arXiv 1409.4842).

What the micro network keeps: Inception modules of four branches with 1x1 reductions before the larger filters and
after the pooling, a stem that shrinks the image fast, global average pooling, one dense layer behind dropout. What it
changes, as torchvision's does: batch normalization (Ioffe and Szegedy, 2015) instead of local response normalization.
With it, the two auxiliary classifiers are not needed for training and are left out.
"""

import torch
from torch import Tensor, nn


def conv(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by its stride), batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Inception(nn.Module):
    """Four branches side by side, joined along the channels (figure 2b of the paper).

    Parameters
    ----------
    in_channels : int
        Channels of the input ``(N, in_channels, H, W)``.
    c1 : int
        Channels of the 1x1 branch.
    c3, c5 : pair of int
        Of the 3x3 and 5x5 branches: channels after the 1x1 reduction, and of the output.
    pool : int
        Channels of the 1x1 projection behind the pooling.

    The output has ``c1 + c3[1] + c5[1] + pool`` channels.
    """

    def __init__(self, in_channels: int, c1: int, c3: tuple[int, int], c5: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.branch1 = conv(in_channels, c1, 1)
        self.branch2 = nn.Sequential(conv(in_channels, c3[0], 1), conv(*c3, 3))
        self.branch3 = nn.Sequential(conv(in_channels, c5[0], 1), conv(*c5, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(kernel_size=3, stride=1, padding=1), conv(in_channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(nn.Module):
    """The micro GoogLeNet, 16 layers deep: 0.9 M parameters, 57 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    dropout : float
        Probability of dropping an input of the dense layer. The paper has 0.4 for 1,024 inputs.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(self, num_classes: int = 200, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv(3, 32, 5, stride=2),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            conv(32, 32, 1),
            conv(32, 96, 3),
        )
        self.inception3 = nn.Sequential(
            Inception(96, 32, (48, 64), (8, 16), pool=16),
            Inception(128, 48, (48, 80), (16, 24), pool=32),
        )
        self.inception4 = nn.Sequential(
            Inception(184, 64, (48, 96), (16, 24), pool=32),
            Inception(216, 64, (64, 128), (16, 32), pool=32),
        )
        self.inception5 = nn.Sequential(
            Inception(256, 80, (80, 160), (24, 48), pool=48),
            Inception(336, 112, (96, 192), (24, 48), pool=48),
        )
        self.shrink = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(400, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.inception3(self.stem(x))
        x = self.inception4(self.shrink(x))
        x = self.inception5(self.shrink(x))
        return self.classifier(self.dropout(self.pool(x).flatten(1)))
