"""ResNet: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385).

What the micro network keeps: the basic block of two 3x3 convolutions around an identity shortcut, batch
normalization after every convolution, projections only where the shape changes (option B), stages that halve the
maps and widen them, global average pooling, one dense layer. What it shrinks: three stages instead of four, a 5x5
stem instead of 7x7, fewer channels. Without its shortcuts it is the paper's plain network.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them, ``relu(x + F(x))``.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input ``(N, in_channels, H, W)`` and of the output ``(N, channels, H / stride, W / stride)``.
    stride : int
        Stride of the first convolution.
    shortcut : bool
        False leaves out the shortcut: two layers of a plain network.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_channels, channels, stride) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return self.relu(out)


def projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The shortcut of a block: the identity where the shape stays, else a 1x1 convolution (the paper's option B)."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(channels),
    )


class ResNet(nn.Module):
    """The micro ResNet, 14 layers: 1.3 M parameters, 57 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    depths : sequence of int
        Blocks in each stage; n basic blocks in each of three stages make 6n + 2 layers.
    widths : sequence of int
        Output channels of each stage.
    block : callable
        ``block(in_channels, channels, stride)`` gives the module that the stages repeat.
    stem_width : int
        Output channels of the stem.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(
        self,
        num_classes: int = 200,
        depths: Sequence[int] = (2, 2, 2),
        widths: Sequence[int] = (48, 96, 160),
        block: Callable[[int, int, int], nn.Module] = BasicBlock,
        stem_width: int = 48,
    ) -> None:
        super().__init__()
        channels = stem_width
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stages = nn.Sequential()
        for depth, width in zip(depths, widths, strict=True):
            stage = nn.Sequential()
            for i in range(depth):
                first_of_a_smaller_stage = i == 0 and len(self.stages) > 0
                stage.append(block(channels, width, 2 if first_of_a_smaller_stage else 1))
                channels = width
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stages(self.stem(x)))
        return self.classifier(x.flatten(1))


def plain(
    num_classes: int = 200,
    depths: Sequence[int] = (2, 2, 2),
    widths: Sequence[int] = (48, 96, 160),
    stem_width: int = 48,
) -> ResNet:
    """The plain network of the same paper: the residual network without its shortcuts."""
    return ResNet(num_classes, depths, widths, partial(BasicBlock, shortcut=False), stem_width)
