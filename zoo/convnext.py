"""ConvNeXt: Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", CVPR 2022 (arXiv 2201.03545).

What the micro network keeps: a patchify stem, blocks of a depthwise 7x7 convolution and an inverted bottleneck with one
LayerNorm and one GELU, layer scale, separate downsampling layers, a stage ratio that favours the middle. What it
shrinks: three stages instead of four, fewer blocks and channels. Stochastic depth is part of the paper's recipe, not of
this course's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of maps ``(N, C, H, W)``, at each position by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """``x + scale * F(x)``; F mixes positions by a depthwise 7x7 convolution, then channels by two dense layers.

    Input and output ``(N, channels, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)
        # Blocks begin almost as the identity (Touvron et al., 2021, "Going Deeper with Image Transformers").
        self.scale = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.depthwise(x).permute(0, 2, 3, 1)  # channels last, where a 1x1 convolution is a dense layer
        out = self.project(self.activation(self.expand(self.norm(out))))
        return x + (self.scale * out).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """The micro ConvNeXt: 1.2 M parameters, 52 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    depths, widths : sequences of int
        Blocks and channels of each stage.

    Input ``(N, 3, 64, 64)``, output logits ``(N, num_classes)``.
    """

    def __init__(
        self, num_classes: int = 200, depths: Sequence[int] = (2, 6, 2), widths: Sequence[int] = (48, 96, 176)
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.features = nn.Sequential(nn.Conv2d(3, channels, kernel_size=4, stride=4), LayerNorm2d(channels, eps=1e-6))
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if number > 0:
                self.features.extend(
                    [LayerNorm2d(channels, eps=1e-6), nn.Conv2d(channels, width, kernel_size=2, stride=2)]
                )
                channels = width
            self.features.append(nn.Sequential(*[Block(width) for _ in range(depth)]))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        return self.classifier(self.norm(x))
