"""ResNeXt: Xie, Girshick, Dollar, Tu and He, "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017 (arXiv 1611.05431).

What the micro network keeps: the bottleneck block whose 3x3 convolution works in many narrow groups, in the third and
most compact of the paper's three equivalent forms, in the layout of :class:`zoo.resnet.ResNet`. What it
changes: every group has 8 channels, and their number grows from stage to stage (10, 18, 28), where the paper has 32
groups of 4 to 32 channels. What it shrinks: everything else.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.resnet import ResNet, projection


class ResNeXtBlock(nn.Module):
    """1x1 convolution, grouped 3x3 convolution, 1x1 convolution, and the shortcut around them.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input ``(N, in_channels, H, W)`` and of the output ``(N, channels, H / stride, W / stride)``.
    stride : int
        Stride of the 3x3 convolution.
    group_width : int
        Channels of each group of the 3x3 convolution, which has half as many channels as the output.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, group_width: int = 8) -> None:
        super().__init__()
        inner = channels // 2
        self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, kernel_size=3, stride=stride, padding=1, groups=inner // group_width, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.shortcut(x))


def resnext(
    num_classes: int = 200, depths: Sequence[int] = (2, 3, 2), widths: Sequence[int] = (160, 288, 448)
) -> ResNet:
    """The micro ResNeXt, 23 layers: 1.0 M parameters, 55 M multiply-adds at 64x64."""
    return ResNet(num_classes, depths, widths, block=ResNeXtBlock, stem_width=48)
