"""The recorded experiments: what their networks differ in, what they are trained on, and what was recorded of them."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from utils.costs import costs
from zoo import WEIGHTS, create
from zoo.convnext import ConvNeXt
from zoo.experiments import EXPERIMENTS, RESULTS, Run, data_for, record
from zoo.gates import fixed, predict, share_between_classes
from zoo.ladder import ROAD, Ladder, road
from zoo.tables import read_csv
from zoo.train import Recipe, precision


def build(run: Run) -> nn.Module:
    with torch.device("meta"):  # shapes suffice
        return run.build()


def cost(run: Run) -> int:
    return costs(build(run), (1, 3, run.image_size, run.image_size)).multiply_adds


RECORDED = sorted(path.stem for path in RESULTS.glob("*.csv") if path.stem in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_networks_of_an_experiment_have_labels_of_their_own_and_one_schedule(name):
    runs = list(EXPERIMENTS[name]())
    labels = [tuple(run.labels.values()) for run in runs]
    assert len(set(labels)) == len(runs) > 1
    assert len({(run.recipe.epochs, run.recipe.small_epochs) for run in runs}) == 1
    assert len({tuple(run.labels) for run in runs}) == 1


def test_depth_counts_layers_as_the_paper_does():
    for run in EXPERIMENTS["depth"]():
        layers = [m for m in build(run).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        with_weights_on_the_main_path = [
            m for m in layers if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
        ]
        assert len(with_weights_on_the_main_path) == run.labels["layers"]


def test_scaling_multiplies_the_cost_as_labelled():
    runs = list(EXPERIMENTS["scaling"]())
    base = cost(runs[0])
    for run in runs:
        assert cost(run) / base == pytest.approx(run.labels["cost"], rel=0.1)


def test_the_road_ends_at_convnext():
    *_, (_, design) = road()
    ladder = Ladder(design).eval()
    convnext = ConvNeXt(depths=design.depths, widths=design.widths).eval()
    torch.manual_seed(0)
    theirs = {key: value for key, value in convnext.state_dict().items() if not key.endswith("scale")}
    for value in theirs.values():
        value.copy_(torch.randn(value.shape) / 5)
    for mine, value in zip(ladder.state_dict().values(), theirs.values(), strict=True):
        mine.copy_(value.view_as(mine))
    for key, value in convnext.state_dict().items():
        if key.endswith("scale"):
            value.fill_(1)  # the road has no layer scale
    for module in ladder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ladder(x), convnext(x), rtol=1e-4, atol=1e-4)


def test_each_step_of_the_road_changes_the_network_in_the_way_that_it_says():
    networks = {name: Ladder(design) for name, design in road()}
    steps = [name for name, _ in ROAD]

    def count(name: str, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in networks[name].modules())

    def cost(name: str) -> int:
        return costs(networks[name], (1, 3, 64, 64)).multiply_adds

    assert cost("depthwise convolution") < 0.6 * cost("patchify stem")
    assert cost("wider by half") > 2 * cost("depthwise convolution")
    assert count("GELU", nn.ReLU) == 0 and count("GELU", nn.GELU) == 31  # three a block, one in the stem
    assert count("one activation a block", nn.GELU) == 10
    assert count("one normalization a block", nn.BatchNorm2d) == 10 + 1 + 2  # blocks, stem, projections
    assert count("LayerNorm", nn.BatchNorm2d) == 0
    kernels = [max(m.kernel_size[0] for m in networks[name].modules() if isinstance(m, nn.Conv2d)) for name in steps]
    assert kernels == [5, 5, 4, 4, 4, 4, 4, 7, 7, 7, 7, 7, 7]  # stem, then blocks
    for name, network in networks.items():
        assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 200), name


def test_a_share_of_the_data_is_the_same_of_each_class_and_gives_as_many_steps():
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    labels = torch.arange(4).repeat_interleave(50)
    data = {"train": (images, labels), "val": (images[:10], labels[:10])}
    given = data_for(Run({}, nn.Identity, Recipe("sgd", 0.1), image_size=32, share=0.2), data)
    images, labels = given["train"]
    assert images.shape == (200, 3, 32, 32) and given["val"][0].shape == (10, 3, 32, 32)
    assert len(images[:, 0, 0, 0].unique()) == 40  # each of 40 images five times
    assert labels.bincount().tolist() == [50] * 4
    assert (images[:, 0, 0, 0] // 50 == labels).all()


def test_an_experiment_is_recorded_whole_and_resumes(tmp_path):
    torch.manual_seed(0)
    images, labels = torch.randint(0, 255, (20, 3, 64, 64), dtype=torch.uint8), torch.arange(20)
    data = {"train": (images, labels), "val": (images, labels)}
    recipe = Recipe("sgd", 0.01, epochs=2, small_epochs=1, batch_size=10)

    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 200))

    runs = [Run({"network": "net", "width": width}, lambda width=width: network(width), recipe) for width in (4, 8)]
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision())
    for _ in range(2):  # the second time, all is read from the checkpoints
        record(fabric, "test", runs, data, tmp_path / "results", tmp_path / "checkpoints")
    rows = read_csv(tmp_path / "results" / "test.csv")
    assert [(row["width"], row["epoch"]) for row in rows] == [("4", "1"), ("4", "2"), ("8", "1"), ("8", "2")]
    assert int(rows[0]["parameters"]) == 4 * 27 + 4 + 200 * 4 + 200
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 2


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_recorded_is_of_these_networks(name):
    rows = read_csv(RESULTS / f"{name}.csv")
    for run in EXPERIMENTS[name]():
        labels = {key: str(value) for key, value in run.labels.items()}
        own = [row for row in rows if labels.items() <= row.items()]
        assert [int(row["epoch"]) for row in own] == list(range(1, run.recipe.epochs + 1))
        assert {int(row["parameters"]) for row in own} == {sum(p.numel() for p in build(run).parameters())}
        assert {int(row["multiply_adds"]) for row in own} == {cost(run)}


# The gates of the SE-ResNet


def test_fixed_gates_hold_for_every_image_until_the_block_ends():
    torch.manual_seed(0)
    model = create("se_resnet")
    images = torch.randint(0, 255, (6, 3, 64, 64), dtype=torch.uint8)
    before, own = predict(model, images)
    assert [gates.shape for gates in own] == [(6, channels) for channels in (48, 48, 96, 96, 160, 160)]
    with fixed(model, [torch.full_like(gates[0], 0.25) for gates in own]):
        _, gates = predict(model, images)
    assert all((values == 0.25).all() for values in gates)
    after, again = predict(model, images)
    assert torch.equal(before, after) and all(map(torch.equal, own, again))


def test_the_share_between_classes_is_that_of_an_analysis_of_variance():
    labels = torch.arange(200).repeat_interleave(50)
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(200, 4, generator=generator)[labels]
    noise = torch.randn(10_000, 4, generator=generator)
    assert share_between_classes(classes, labels) == pytest.approx(1)
    assert share_between_classes(noise, labels) == pytest.approx(0, abs=0.02)
    assert share_between_classes(classes + 3**0.5 * noise, labels) == pytest.approx(1 / 4, abs=0.04)


def test_the_recorded_accuracy_with_own_gates_is_that_of_the_zoo():
    rows = read_csv(RESULTS / "frozen_gates.csv")
    curve = read_csv(WEIGHTS / "se_resnet.csv")
    # Half of the images: three standard errors are two points.
    assert float(rows[0]["top1"]) == pytest.approx(float(curve[-1]["val_top1"]), abs=2)
    assert len(read_csv(RESULTS / "gates.csv")) == 12
