"""The road from ResNet to ConvNeXt, one change at a time: Liu et al., "A ConvNet for the 2020s", CVPR 2022
(arXiv 2201.03545), section 2.

:data:`ROAD` lists the changes in the paper's order. The first network is a small ResNet of bottleneck blocks, the last
is :class:`zoo.convnext.ConvNeXt` without its layer scale, which the paper does not count as a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from zoo.convnext import LayerNorm2d


@dataclass(frozen=True)
class Design:
    """What the steps of the road change."""

    depths: tuple[int, ...] = (3, 4, 3)
    widths: tuple[int, ...] = (24, 48, 96)
    patchify: bool = False
    depthwise: bool = False
    inverted: bool = False
    spatial_first: bool = False
    kernel_size: int = 3
    activation: type[nn.Module] = nn.ReLU
    all_activations: bool = True
    all_norms: bool = True
    norm: type[nn.Module] = nn.BatchNorm2d
    separate_downsampling: bool = False


ROAD: tuple[tuple[str, dict], ...] = (
    ("ResNet", {}),
    ("stage ratio 1:3:1", {"depths": (2, 6, 2)}),
    ("patchify stem", {"patchify": True}),
    ("depthwise convolution", {"depthwise": True}),
    ("wider by half", {"widths": (36, 72, 144)}),
    ("inverted bottleneck", {"inverted": True}),
    ("depthwise first", {"spatial_first": True}),
    ("7×7 kernels", {"kernel_size": 7}),
    ("GELU", {"activation": nn.GELU}),
    ("one activation a block", {"all_activations": False}),
    ("one normalization a block", {"all_norms": False}),
    ("LayerNorm", {"norm": LayerNorm2d}),
    ("separate downsampling", {"separate_downsampling": True}),
)


def road() -> Iterator[tuple[str, Design]]:
    """Yield the name of each step and the design that it leads to."""
    design = Design()
    for name, change in ROAD:
        design = replace(design, **change)
        yield name, design


class Block(nn.Module):
    """``x + F(x)``, where F is three convolutions: one in space, two over the channels.

    Input ``(N, in_channels, H, W)``, output ``(N, channels, H / stride, W / stride)``.
    """

    def __init__(self, in_channels: int, channels: int, hidden: int, stride: int, design: Design) -> None:
        super().__init__()
        middle = in_channels if design.spatial_first else hidden  # channels of the convolution in space
        spatial = nn.Conv2d(
            middle,
            middle,
            design.kernel_size,
            stride,
            padding=design.kernel_size // 2,
            groups=middle if design.depthwise else 1,
        )
        first, last = nn.Conv2d(in_channels, hidden, kernel_size=1), nn.Conv2d(hidden, channels, kernel_size=1)
        convolutions = [spatial, first, last] if design.spatial_first else [first, spatial, last]
        self.layers = nn.Sequential()
        for position, convolution in enumerate(convolutions):
            self.layers.append(convolution)
            if design.all_norms or position == 0:
                self.layers.append(design.norm(convolution.out_channels))
            if position == 1 or (design.all_activations and position == 0):
                self.layers.append(design.activation())
        self.after = design.activation() if design.all_activations else nn.Identity()
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride), design.norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.shortcut(x) + self.layers(x))


class Ladder(nn.Module):
    """A network of the given design; ``(N, 3, 64, 64)`` to logits ``(N, num_classes)``."""

    def __init__(self, design: Design, num_classes: int = 200) -> None:
        super().__init__()
        channels = design.widths[0]
        if design.patchify:
            stem: list[nn.Module] = [nn.Conv2d(3, channels, kernel_size=4, stride=4), design.norm(channels)]
        else:
            stem = [nn.Conv2d(3, channels, kernel_size=5, stride=2, padding=2), design.norm(channels)]
        if design.all_activations:
            stem.append(design.activation())
        if not design.patchify:
            stem.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        self.features = nn.Sequential(*stem)
        for number, (depth, width) in enumerate(zip(design.depths, design.widths, strict=True)):
            # A bottleneck is narrow inside, an inverted one narrow outside.
            out, hidden = (width, 4 * width) if design.inverted else (4 * width, width)
            if number > 0 and design.separate_downsampling:
                self.features.extend([design.norm(channels), nn.Conv2d(channels, out, kernel_size=2, stride=2)])
                channels = out
            for i in range(depth):
                stride = 2 if i == 0 and number > 0 and not design.separate_downsampling else 1
                self.features.append(Block(channels, out, hidden, stride, design))
                channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = design.norm(channels) if design.separate_downsampling else nn.Identity()
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.pool(self.features(x)))
        return self.classifier(x.flatten(1))
