"""DenseNet: Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017
(arXiv 1608.06993).

What the micro network keeps: the variant DenseNet-BC. Each layer reads the maps of all layers before it in its block
and adds `growth` maps of its own; a 1x1 bottleneck bounds the cost of the 3x3 convolution, and transitions between
blocks halve the channels and the size. What it shrinks: three blocks instead of four, fewer layers and maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 convolution to ``4 * growth`` channels, BN, ReLU, 3x3 convolution to `growth`; joined to the input.

    Input ``(N, in_channels, H, W)``, output ``(N, in_channels + growth, H, W)``.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.new_maps = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, 4 * growth, kernel_size=1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, kernel_size=3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new_maps(x)], dim=1)


def transition(in_channels: int, channels: int) -> nn.Sequential:
    """Between two blocks: BN, ReLU, 1x1 convolution to `channels`, and pooling that halves the size."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        nn.AvgPool2d(kernel_size=2, stride=2),
    )


class DenseNet(nn.Module):
    """The micro DenseNet, 52 layers: 0.8 M parameters, 60 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    growth : int
        Maps that each layer adds.
    depths : sequence of int
        Layers in each block.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(self, num_classes: int = 200, growth: int = 20, depths: Sequence[int] = (6, 8, 10)) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        for number, depth in enumerate(depths):
            if number > 0:
                self.features.append(transition(channels, channels // 2))
                channels //= 2
            self.features.append(nn.Sequential(*[DenseLayer(channels + i * growth, growth) for i in range(depth)]))
            channels += depth * growth
        self.features.extend([nn.BatchNorm2d(channels), nn.ReLU(inplace=True)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))
