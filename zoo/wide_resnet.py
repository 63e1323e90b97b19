"""Wide ResNet: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv 1605.07146).

What the micro network keeps: width instead of depth. It is :class:`zoo.resnet.ResNet` with half as many blocks, each
about one and a half times as wide, at the same multiply-adds. As the paper's networks for ImageNet do, it keeps the
order of convolution, normalization and ReLU of the original ResNet.
"""

from collections.abc import Sequence

from zoo.resnet import ResNet


def wide_resnet(
    num_classes: int = 200, depths: Sequence[int] = (1, 1, 1), widths: Sequence[int] = (72, 144, 224)
) -> ResNet:
    """The micro Wide ResNet, 8 layers: 1.2 M parameters, 55 M multiply-adds at 64x64."""
    return ResNet(num_classes, depths, widths)
