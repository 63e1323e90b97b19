"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018 (arXiv 1801.04381).

What the micro network keeps: inverted residual blocks (1x1 expansion, depthwise 3x3, linear 1x1 projection, a shortcut
between the narrow ends), ReLU6, a last 1x1 convolution that widens before the pooling. What it shrinks: fewer stages,
blocks and channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def conv(in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by its stride), batch normalization, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project back without a non-linearity.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input ``(N, in_channels, H, W)`` and of the output ``(N, channels, H / stride, W / stride)``.
    stride : int
        Stride of the depthwise convolution.
    expansion : int
        The depthwise convolution has ``expansion * in_channels`` channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.layers = nn.Sequential(
            conv(in_channels, hidden) if expansion > 1 else nn.Identity(),
            conv(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNetV2(nn.Module):
    """The micro MobileNetV2: 0.8 M parameters, 32 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    stages : sequence of tuples of int
        Expansion, output channels, number of blocks and stride of the first, as in table 2 of the paper.
    head : int
        Channels of the last 1x1 convolution.
    dropout : float
        Probability of dropping an input of the dense layer.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(
        self,
        num_classes: int = 200,
        stages: Sequence[tuple[int, int, int, int]] = ((1, 16, 1, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 112, 3, 2)),
        head: int = 640,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = 16
        self.features = nn.Sequential(conv(3, channels, kernel_size=3, stride=2))
        for expansion, width, count, stride in stages:
            for i in range(count):
                self.features.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
                channels = width
        self.features.append(conv(channels, head))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(self.dropout(x))
