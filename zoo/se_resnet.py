"""SENet: Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018 (arXiv 1709.01507).

What the micro network keeps: the squeeze-and-excitation gate in front of the addition of every residual block. All
else is :class:`zoo.resnet.ResNet`. The gates squeeze to an eighth of the channels; the paper has a sixteenth of far
more channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.resnet import BasicBlock, ResNet


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate between 0 and 1 that depends on the whole map.

    Squeeze: the mean of every channel. Excitation: two dense layers with a ReLU between, and a sigmoid.

    Parameters
    ----------
    channels : int
        Channels of the input ``(N, channels, H, W)``; the output has the same shape.
    reduction : int
        The hidden layer has ``channels // reduction`` units.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def gates(self, x: Tensor) -> Tensor:
        """The gates ``(N, channels)`` for a map `x`."""
        squeezed = x.mean((2, 3))
        return self.expand(self.reduce(squeezed).relu()).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)[:, :, None, None]


class SEBlock(BasicBlock):
    """A basic block with a gate on what it adds to the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride)
        self.se = SqueezeExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        return self.relu(out + self.shortcut(x))


def se_resnet(
    num_classes: int = 200, depths: Sequence[int] = (2, 2, 2), widths: Sequence[int] = (48, 96, 160)
) -> ResNet:
    """The micro SE-ResNet, 14 layers: 1.3 M parameters, 57 M multiply-adds at 64x64."""
    return ResNet(num_classes, depths, widths, block=SEBlock)
