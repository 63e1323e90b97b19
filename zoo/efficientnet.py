"""EfficientNet: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019
(arXiv 1905.11946).

What the micro network keeps: MBConv blocks (inverted residuals with a squeeze-and-excitation gate and SiLU), 3x3 and
5x5 depthwise convolutions as in EfficientNet-B0, and multipliers for depth and width that scale the whole network; the
third, resolution, is the size of the images. What it shrinks: fewer stages, blocks and channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def conv(in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by its stride), batch normalization, SiLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.SiLU(inplace=True),
    )


class Gate(nn.Module):
    """Squeeze-and-excitation (Hu et al., 2018) with SiLU, as in the paper: multiplies each channel by a share."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.expand = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.expand(squeezed).sigmoid()


class MBConv(nn.Module):
    """Expand, filter each channel by itself, gate the channels, project back without a non-linearity.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input ``(N, in_channels, H, W)`` and of the output ``(N, channels, H / stride, W / stride)``.
    kernel_size, stride : int
        Of the depthwise convolution.
    expansion : int
        The depthwise convolution has ``expansion * in_channels`` channels. The gate squeezes to a quarter of
        `in_channels`.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.layers = nn.Sequential(
            conv(in_channels, hidden) if expansion > 1 else nn.Identity(),
            conv(hidden, hidden, kernel_size, stride, groups=hidden),
            Gate(hidden, in_channels // 4),
            nn.Conv2d(hidden, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class EfficientNet(nn.Module):
    """The micro EfficientNet: 0.9 M parameters, 31 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    width, depth : float
        Multipliers of the channels (rounded to multiples of 8) and of the blocks in each stage (rounded).
    stages : sequence of tuples of int
        Expansion, output channels, number of blocks, stride of the first, kernel size, as in table 1 of the paper.
    head : int
        Channels of the last 1x1 convolution.
    dropout : float
        Probability of dropping an input of the dense layer.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(
        self,
        num_classes: int = 200,
        width: float = 1.0,
        depth: float = 1.0,
        stages: Sequence[tuple[int, int, int, int, int]] = (
            (1, 16, 1, 1, 3),
            (6, 32, 2, 2, 3),
            (6, 48, 3, 2, 5),
            (6, 64, 3, 1, 3),
            (6, 104, 3, 2, 5),
        ),
        head: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, 8 * round(width * channels / 8))

        channels = scaled(16)
        self.features = nn.Sequential(conv(3, channels, kernel_size=3, stride=2))
        for expansion, out_channels, count, stride, kernel_size in stages:
            for i in range(max(1, round(depth * count))):
                block = MBConv(channels, scaled(out_channels), kernel_size, stride if i == 0 else 1, expansion)
                self.features.append(block)
                channels = scaled(out_channels)
        self.features.append(conv(channels, scaled(head)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(scaled(head), num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(self.dropout(x))
