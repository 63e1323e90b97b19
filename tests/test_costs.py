"""Tests of utils.costs: known networks, formulas by hand, saved memory against a real run, receptive fields."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import utils  # noqa: F401  (makes torchvision importable beside a CPU-only torch)

# isort: split
from torchvision import models

from utils.costs import MAX_ROWS, Costs, Layer, costs, receptive_field
from utils.gpu import MIB, track_memory

IMAGE = (1, 3, 224, 224)
KNOWN = [  # parameters, multiply-adds in millions at 224 px
    ("alexnet", 61_100_840, 714),
    ("vgg11", 132_863_336, 7609),
    ("vgg13", 133_047_848, 11308),
    ("vgg16", 138_357_544, 15470),
    ("vgg19", 143_667_240, 19632),
    ("resnet18", 11_689_512, 1814),
    ("resnet34", 21_797_672, 3664),
    ("resnet50", 25_557_032, 4089),
    ("resnet152", 60_192_808, 11514),
    ("resnext50_32x4d", 25_028_904, 4230),
    ("wide_resnet50_2", 68_883_240, 11398),
    ("densenet121", 7_978_856, 2834),
    ("convnext_tiny", 28_589_128, 4456),
    ("vit_b_16", 86_567_656, 17564),
    ("mobilenet_v2", 3_504_872, 301),
    ("mobilenet_v3_large", 5_483_032, 217),
    ("efficientnet_b0", 5_288_548, 386),
]


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(models, name)()


@pytest.mark.parametrize(("name", "parameters", "millions"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_known_networks_cost_what_is_known_and_the_layers_add_up(name, parameters, millions):
    result = costs(on_meta(name), IMAGE)
    assert result.parameters == parameters
    assert round(result.multiply_adds / 1e6) == millions
    for view in (result.layers, result.grouped(1).layers, result.grouped(2).layers):
        assert sum(layer.parameters for layer in view) == result.parameters
        assert sum(layer.multiply_adds for layer in view) == result.multiply_adds
        assert sum(layer.activation_bytes for layer in view) == result.activation_bytes


def test_vgg16_has_27_times_the_activations_of_alexnet_and_its_weights_sit_in_the_dense_layers():
    alexnet, vgg = (costs(on_meta(name), IMAGE) for name in ("alexnet", "vgg16"))
    outputs = [sum(m.activation_bytes for m in c.layers if m.kind in ("Conv2d", "Linear")) for c in (alexnet, vgg)]
    assert [round(size / MIB, 2) for size in outputs] == [1.89, 51.71]
    assert sum(m.parameters for m in vgg.layers if m.kind == "Linear") == 123_642_856


def test_googlenet_lists_the_auxiliary_heads_that_it_does_not_run():
    with torch.device("meta"):
        full, plain = (models.googlenet(aux_logits=aux, init_weights=False) for aux in (True, False))
    full, plain = costs(full, IMAGE), costs(plain, IMAGE)
    assert (full.parameters, plain.parameters) == (13_004_888, 6_624_904)
    assert full.multiply_adds == plain.multiply_adds
    assert full.saved_bytes > plain.saved_bytes
    heads = [layer for layer in full.grouped().layers if layer.name.startswith("aux")]
    assert [(head.output_shape, head.multiply_adds) for head in heads] == [((), 0), ((), 0)]


def test_a_convolution_costs_what_the_formulas_say():
    n, c_in, c_out, k, h, groups = 2, 8, 12, 5, 16, 4
    conv = nn.Conv2d(c_in, c_out, k, stride=2, padding=2, groups=groups)
    result = costs(nn.Sequential(conv), (n, c_in, 2 * h, 2 * h))
    weights = c_out * c_in // groups * k * k
    assert result.layers == [
        Layer("0", "Conv2d", (n, c_out, h, h), weights + c_out, n * h * h * weights, n * c_out * h * h * 4)
    ]
    assert result.saved_bytes == n * c_in * (2 * h) ** 2 * 4  # the input


def test_a_dense_layer_costs_what_the_formulas_say_in_half_precision_too():
    result = costs(nn.Linear(30, 7).half(), (5, 30))
    assert result.layers == [Layer("", "Linear", (5, 7), 30 * 7 + 7, 5 * 30 * 7, 5 * 7 * 2)]
    assert result.saved_bytes == 5 * 30 * 2


def test_self_attention_counts_its_projections_and_both_products():
    n, length, width = 2, 10, 16
    encoder = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=32, batch_first=True)
    layers = costs(encoder, (n, length, width)).grouped(1).layers
    attention = next(layer for layer in layers if layer.kind == "MultiheadAttention")
    assert attention.parameters == 4 * (width * width + width)
    assert attention.multiply_adds == n * (4 * length * width**2 + 2 * length**2 * width)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x + self.conv(x))
        return torch.matmul(y, self.scale).relu_()


def test_what_a_module_does_itself_counts_for_that_module():
    own, conv = costs(nn.Sequential(Residual()), (1, 4, 4, 4)).layers
    values = 4 * 4 * 4
    assert own == Layer("0", "Residual", (1, 4, 4, 4), 16, values * 4, 3 * values * 4)  # sum, relu and product
    assert conv == Layer("0.conv", "Conv2d", (1, 4, 4, 4), 4 * 4 * 9 + 4, values * 4 * 9, values * 4)


def test_views_and_operations_in_place_cost_no_memory():
    chain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True), nn.Dropout(), nn.Identity(), nn.Flatten())
    assert [layer.kind for layer in costs(chain, (1, 3, 5, 5)).layers] == ["Conv2d"]
    assert costs(nn.Sequential(nn.ReLU(inplace=True)), (1, 3)).activation_bytes == 0
    assert costs(nn.Sequential(nn.ReLU()), (1, 3)).activation_bytes == 12


def test_a_module_used_twice_is_run_twice_but_has_its_parameters_once():
    layer = nn.Linear(6, 6)
    tied = nn.Linear(6, 6, bias=False)
    tied.weight = layer.weight
    result = costs(nn.Sequential(layer, layer, tied), (1, 6))
    assert [(m.name, m.parameters, m.multiply_adds) for m in result.layers] == [("0", 42, 72), ("2", 0, 36)]


def kept_by_a_real_run(model: nn.Module, images: Tensor) -> int:
    """Bytes of the distinct memory blocks that a real forward pass in training mode saves, without the model's."""
    state = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(images)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in state)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v3_small", "googlenet"])
def test_saved_bytes_are_those_of_a_real_training_step(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(models, name)(num_classes=10, **options)
    images = torch.randn(2, 3, 96, 96)
    expected = costs(model, tuple(images.shape)).saved_bytes
    assert kept_by_a_real_run(model, images) == expected


def test_frozen_layers_save_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    whole = costs(model, (1, 3, 8, 8)).saved_bytes
    model[0].requires_grad_(False)
    assert whole == (3 * 8 * 8 + 8 * 6 * 6) * 4  # what the convolution reads; what ReLU writes and the rest reads
    assert costs(model, (1, 3, 8, 8)).saved_bytes == 8 * 6 * 6 * 4
    assert costs(model.requires_grad_(False), (1, 3, 8, 8)).saved_bytes == 0


def test_batch_normalization_of_single_values_does_not_stop_it():
    assert costs(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)), (1, 3, 4, 4)).parameters == 6


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_16"])
def test_the_mode_of_the_caller_changes_nothing(name):
    with torch.device("meta"):
        model = models.get_model(name)
    expected = costs(model, IMAGE)
    with torch.no_grad():
        assert costs(model, IMAGE) == expected
    with torch.inference_mode(), torch.device("meta"):
        assert costs(models.get_model(name), IMAGE) == expected


def test_nothing_is_allocated():
    costs(nn.Linear(2, 2), (1, 2))  # what torch loads on first use does not count
    model = nn.Linear(5000, 10_000, bias=False)  # 200 MB
    with track_memory() as peak:
        result = costs(model, (10_000, 5000))  # 200 MB of input, 400 MB of output
        vgg = costs(on_meta("vgg16"), (64, *IMAGE[1:]))
    assert result.activation_bytes == 400_000_000
    assert vgg.activation_bytes > 3 * 2**30
    if not torch.cuda.is_available():
        assert peak.peak_bytes < 60 * MIB


def test_the_callers_model_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    model.train()
    model[1].eval()
    model[0].requires_grad_(False)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    parameters, gradients = list(model.parameters()), [p.grad for p in model.parameters()]
    before = copy.deepcopy(model)
    costs(model, (2, 3, 8, 8))
    for parameter, same, gradient in zip(model.parameters(), parameters, gradients, strict=True):
        assert parameter is same
        assert parameter.grad is gradient
    for now, then in zip(model.modules(), before.modules(), strict=True):
        assert now.training == then.training
        assert not now._forward_hooks and not now._forward_pre_hooks
    for key, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert now.requires_grad == then.requires_grad
        assert now.device.type == "cpu"


@pytest.mark.parametrize(
    ("size", "place"),
    [((1, 1, 224, 224), "Conv2d 'features.0'"), ((1, 3, 16, 16), "MaxPool2d 'features"), (IMAGE[1:], "'classifier.1'")],
)
def test_an_input_that_does_not_fit_is_told_with_size_and_layer(size, place):
    with pytest.raises(ValueError) as error:
        costs(on_meta("alexnet"), size)
    assert str(size) in str(error.value)
    assert place in str(error.value)
    assert error.value.__suppress_context__


def test_the_table_lists_every_layer_of_vgg19_on_one_slide():
    lines = repr(costs(on_meta("vgg19"), IMAGE)).splitlines()
    assert len(lines) <= MAX_ROWS + 3
    assert max(map(len, lines)) < 100
    assert lines[1].split() == ["features.0", "Conv2d", "1×64×224×224", "1,792", "86.7", "12.25"]
    assert lines[-2].split()[:3] == ["total", "143,667,240", "19,632.1"]
    assert lines[-1] == "held for the backward pass: 74.9 MiB"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("resnet50", "layer2.3 Bottleneck 1×512×28×28 280,064 218.4 4.59"),
        ("vit_b_16", "encoder.layers.encoder_layer_5 EncoderBlock 1×197×768 7,087,872 1,454.0 17.40"),
    ],
)
def test_the_table_of_a_deep_network_has_a_line_for_each_block(name, row):
    lines = repr(costs(on_meta(name), IMAGE)).splitlines()
    assert len(lines) <= MAX_ROWS + 3
    assert row in [" ".join(line.split()) for line in lines]


def test_a_model_with_hooks_and_tensors_of_its_own_stays_as_it_is():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(30, 7)), nn.Linear(7, 2))
    seen = []
    model[0].register_forward_hook(lambda module, _, output: seen.append(output))
    model.last = model(torch.zeros(5, 30))  # as models do that keep a result, for a picture or a second loss
    model.kept = {"all": [model.last + 1]}
    assert costs(model, (5, 30)).multiply_adds >= 5 * (30 * 7 + 7 * 2)
    assert [output.device.type for output in (*seen, model.last, *model.kept["all"])] == ["cpu"] * 3
    old = nn.utils.spectral_norm(nn.Linear(30, 7))  # it works by a hook before the pass
    assert costs(old, (5, 30)).multiply_adds >= 5 * 30 * 7


def test_products_with_vectors_count_as_those_with_matrices_do():
    class Product(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(*shape))

        def forward(self, x):
            return x @ self.weight

    assert costs(Product(30), (5, 30)).multiply_adds == costs(Product(30, 1), (5, 30)).multiply_adds == 150
    assert costs(Product(30), (30,)).multiply_adds == 30


def test_grouping_by_one_leaves_the_children_of_the_model():
    grouped = costs(on_meta("resnet18"), IMAGE).grouped(1)
    assert isinstance(grouped, Costs)
    names = ["conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert [layer.name for layer in grouped.layers] == names
    assert grouped.layers[4].output_shape == (1, 128, 28, 28)


def seen_by_gradient(features: nn.Sequential, pixels: int, unit: int) -> tuple[int, int]:
    """First and last row of the image with an influence on row `unit` of the output of a chain of the same shape."""

    def one_channel(layer: nn.Module) -> nn.Module:
        shape = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        if isinstance(layer, nn.Conv2d):
            conv = nn.Conv2d(1, 1, **shape, dilation=layer.dilation, bias=False).double()
            nn.init.ones_(conv.weight)
            return conv
        return nn.AvgPool2d(**shape)

    chain = nn.Sequential(*(one_channel(layer) for layer in features.modules() if hasattr(layer, "kernel_size")))
    image = torch.zeros(1, 1, pixels, pixels, dtype=torch.double, requires_grad=True)
    chain(image)[0, 0, unit, unit].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize(
    ("name", "last", "size", "stride"),
    [("alexnet", 11, 163, 16), ("alexnet", 13, 195, 32), ("vgg16", 31, 212, 32), ("vgg11", 21, 150, 32)],
)
def test_receptive_fields_of_known_networks_are_what_the_gradient_says(name, last, size, stride):
    features = on_meta(name).features[:last]
    field = receptive_field(features)
    assert (field.size, field.stride) == (size, stride)
    unit = 224 // stride
    first_row, last_row = seen_by_gradient(features, 448, unit)
    assert first_row == unit * field.stride + field.offset
    assert last_row == first_row + field.size - 1


def test_receptive_field_follows_dilation_same_padding_and_a_layer_used_twice():
    layer = nn.Conv2d(1, 1, 3, dilation=2, padding="same")
    chain = nn.Sequential(layer, nn.ReLU(), layer, nn.Sequential(nn.Conv2d(1, 1, 5, 2, "valid"), nn.AvgPool2d(2)))
    flat = nn.Sequential(layer, layer, *copy.deepcopy(chain[3]))
    flat[1] = copy.deepcopy(layer)
    assert receptive_field(chain) == receptive_field(flat) == (15, 4, -4)
    assert seen_by_gradient(flat, 64, 5) == (5 * 4 - 4, 5 * 4 - 4 + 14)


def test_two_layers_of_3_see_as_much_as_one_of_5_and_three_as_one_of_7():
    assert [receptive_field(nn.Sequential(*[nn.Conv2d(1, 1, 3)] * n)).size for n in (1, 2, 3)] == [3, 5, 7]
    assert receptive_field(nn.Conv2d(1, 1, 7)) == (7, 1, 0)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (lambda: on_meta("alexnet"), "AlexNet ''"),
        (lambda: on_meta("resnet18").layer1, "BasicBlock '0'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)), "AdaptiveAvgPool2d '1'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveMaxPool2d(1)), "AdaptiveMaxPool2d '1'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3)), "ConvTranspose2d '1'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)), "PixelShuffle '1'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.PixelUnshuffle(2)), "PixelUnshuffle '1'"),
        (lambda: nn.Sequential(nn.ZeroPad2d(3), nn.Conv2d(1, 1, 7)), "ZeroPad2d '0'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, (1, 7))), "Conv2d '0'"),
    ],
)
def test_receptive_field_refuses_what_is_not_a_chain_and_names_it(model, place):
    with pytest.raises(ValueError, match=place):
        receptive_field(model())
