"""The blocks of the micro networks compute what torchvision's do, and the networks are put together as said."""

from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn

import utils  # noqa: F401  (makes torchvision importable beside a CPU-only torch)

# isort: split
from torchvision import ops

from utils.costs import costs
from zoo.convnext import Block
from zoo.densenet import DenseLayer
from zoo.efficientnet import EfficientNet, MBConv
from zoo.googlenet import Inception
from zoo.mobilenet import InvertedResidual
from zoo.resnet import BasicBlock, ResNet, plain
from zoo.resnext import ResNeXtBlock, resnext
from zoo.se_resnet import SEBlock, SqueezeExcitation, se_resnet
from zoo.vit import Layer, ViT
from zoo.wide_resnet import wide_resnet

# `from torchvision.models import googlenet` would be the function of that name.
convnext, densenet, efficientnet, googlenet, mobilenetv2, resnet, vision_transformer = (
    import_module(f"torchvision.models.{name}")
    for name in ["convnext", "densenet", "efficientnet", "googlenet", "mobilenetv2", "resnet", "vision_transformer"]
)


def shortcut(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels))


def inception_of_the_paper() -> nn.Module:
    """torchvision's module with the 5x5 filters of the paper, for which torchvision has 3x3."""
    module = googlenet.Inception(24, 8, 8, 16, 4, 8, 8)
    module.branch3[1] = googlenet.BasicConv2d(4, 8, kernel_size=5, padding=2)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-5
    return module


class Joined(nn.Module):
    """torchvision's dense layer returns the new maps only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = densenet._DenseLayer(24, growth_rate=8, bn_size=4, drop_rate=0)

    def forward(self, x):
        return torch.cat([x, self.layer(x)], 1)


# Ours, torchvision's, and the shape of an input.
PAIRS = {
    "basic block": (
        BasicBlock(16, 24, stride=2),
        resnet.BasicBlock(16, 24, stride=2, downsample=shortcut(16, 24)),
        (2, 16, 8, 8),
    ),
    "basic block with identity": (BasicBlock(16, 16), resnet.BasicBlock(16, 16), (2, 16, 8, 8)),
    "ResNeXt block": (  # its width is int(8 * 256 / 64) = 32 in 4 groups
        ResNeXtBlock(16, 64, stride=2, group_width=8),
        resnet.Bottleneck(16, 16, stride=2, downsample=shortcut(16, 64), groups=4, base_width=32),
        (2, 16, 8, 8),
    ),
    "Inception module": (Inception(24, 8, (8, 16), (4, 8), pool=8), inception_of_the_paper(), (2, 24, 8, 8)),
    "dense layer": (DenseLayer(24, growth=8), Joined(), (2, 24, 8, 8)),
    "SE gate": (SqueezeExcitation(16, reduction=4), ops.SqueezeExcitation(16, 4), (2, 16, 8, 8)),
    "inverted residual": (
        InvertedResidual(16, 16, stride=1, expansion=6),
        mobilenetv2.InvertedResidual(16, 16, stride=1, expand_ratio=6),
        (2, 16, 8, 8),
    ),
    "inverted residual without expansion": (
        InvertedResidual(16, 24, stride=2, expansion=1),
        mobilenetv2.InvertedResidual(16, 24, stride=2, expand_ratio=1),
        (2, 16, 8, 8),
    ),
    "MBConv": (
        MBConv(16, 16, kernel_size=5, stride=1, expansion=6),
        efficientnet.MBConv(
            efficientnet.MBConvConfig(6, 5, 1, 16, 16, 1), stochastic_depth_prob=0, norm_layer=nn.BatchNorm2d
        ),
        (2, 16, 8, 8),
    ),
    "transformer layer": (
        Layer(24, heads=3),
        vision_transformer.EncoderBlock(
            3, 24, 96, dropout=0, attention_dropout=0, norm_layer=partial(nn.LayerNorm, eps=1e-5)
        ),
        (2, 10, 24),
    ),
    "ConvNeXt block": (
        Block(16),
        convnext.CNBlock(16, layer_scale=1e-6, stochastic_depth_prob=0),
        (2, 16, 8, 8),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_block_computes_what_torchvisions_does_with_the_same_weights(name):
    ours, theirs, shape = PAIRS[name]
    torch.manual_seed(0)
    values = {key: value for key, value in theirs.state_dict().items() if value.is_floating_point()}
    for key, value in values.items():  # other than at the beginning, where many scales and means are 1 and 0
        value.copy_(torch.rand(value.shape) + 0.5 if key.endswith("running_var") else torch.randn(value.shape) / 2)
    own = [value for value in ours.state_dict().values() if value.is_floating_point()]
    # Where torchvision orders the layers otherwise than the data flows, the shapes below tell.
    order = sorted(values, key=lambda key: "downsample" in key)
    assert len(own) == len(order)
    for mine, key in zip(own, order, strict=True):
        assert mine.numel() == values[key].numel()
        mine.copy_(values[key].view_as(mine))
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_plain_network_is_a_residual_one_without_shortcuts():
    residual, without = ResNet(), plain()
    rest = [key for key in residual.state_dict() if ".shortcut." not in key]
    assert rest == list(without.state_dict())
    without.load_state_dict({key: residual.state_dict()[key] for key in rest})
    for module in residual.modules():
        if isinstance(module, BasicBlock):
            module.shortcut = None
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(residual.eval()(x), without.eval()(x))


def test_the_variants_of_resnet_are_comparable():
    """ResNeXt, Wide ResNet and SE-ResNet cost what ResNet costs, within 5 %, and differ in what they are named for."""
    cost = costs(ResNet(), (1, 3, 64, 64)).multiply_adds
    for network in (resnext, wide_resnet, se_resnet):
        assert costs(network(), (1, 3, 64, 64)).multiply_adds == pytest.approx(cost, rel=0.05)
    convolutions = [
        sum(m.kernel_size == (3, 3) for m in net().modules() if isinstance(m, nn.Conv2d))
        for net in (ResNet, wide_resnet)
    ]
    assert convolutions == [12, 6]


def test_closed_gates_leave_the_shortcut_alone():
    block = SEBlock(16, 16).eval()
    nn.init.zeros_(block.se.expand.weight)
    nn.init.constant_(block.se.expand.bias, -1e4)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block.se.gates(x), torch.zeros(2, 16))
    torch.testing.assert_close(block(x), x)


def test_a_vit_takes_images_of_another_size_and_knows_where_a_patch_is():
    vit = ViT().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert vit(torch.randn(1, 3, 48, 48)).shape == (1, 200)
        there = vit(x)
        assert not torch.allclose(vit(x.flip(3)), there, atol=1e-4)
        vit.positions.zero_()
        # Without positions, attention and the class token see a set: whole patches may change their places.
        moved = x.view(1, 3, 8, 8, 64).flip(2).reshape(1, 3, 64, 64)
        torch.testing.assert_close(vit(moved), vit(x), rtol=1e-4, atol=1e-4)


def test_width_and_depth_of_an_efficientnet_scale_its_cost():
    base, wide, deep = (costs(EfficientNet(width=w, depth=d), (1, 3, 64, 64)) for w, d in ((1, 1), (1.5, 1), (1, 2)))
    assert 1.5 < wide.multiply_adds / base.multiply_adds < 1.5**2 * 1.05
    assert 1.5 < deep.multiply_adds / base.multiply_adds < 2.05
