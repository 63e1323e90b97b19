"""The micro networks: their size, their shipped weights, the data reader, the recipe, and the recorded results."""

import os
import shutil
import sys
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import zoo
from notebooks import ROOT
from utils.costs import costs
from utils.data import imagenet_classes
from zoo import tiny_imagenet
from zoo import train as zoo_train
from zoo.alexnet import AlexNet, LocalResponseNorm
from zoo.evaluate import differences, evaluate, main, speeds
from zoo.page import draw_chart, table
from zoo.tables import read_csv, write_csv
from zoo.tiny_imagenet import load_tiny_imagenet, normalize, top_k_correct
from zoo.train import (
    Recipe,
    augment,
    build_optimizer,
    learning_rate_at,
    precision,
    slow_depthwise_in_float32,
    train,
)

SHARDS = ROOT.parent / "shared" / "data"  # a developer's copy of Tiny-ImageNet-200
NAMES = list(zoo.ZOO)
RESULTS = {row["name"]: row for row in read_csv(zoo.WEIGHTS / "results.csv")}


# The networks


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_small_and_gives_200_logits(name):
    model = zoo.create(name).eval()
    cost = costs(model, (1, 3, 64, 64))
    assert cost.parameters <= 2_000_000
    assert cost.multiply_adds <= 60_000_000
    recorded = RESULTS[name]
    assert (int(recorded["parameters"]), int(recorded["multiply_adds"])) == (cost.parameters, cost.multiply_adds)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 200)
    assert zoo.create(name, num_classes=7)(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_an_unknown_network_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'lenet'.*alexnet"):
        zoo.create("lenet")


def test_local_response_normalization_is_torchs():
    x = torch.randn(2, 16, 5, 5)
    ours = LocalResponseNorm(16, size=5, alpha=0.2, k=2.0)(x)
    torch.testing.assert_close(ours, nn.LocalResponseNorm(5, alpha=5 * 0.2, beta=0.75, k=2.0)(x))


def test_the_towers_of_alexnet_meet_in_the_third_convolution_only():
    """Of the convolutions, only the third sees the maps of both towers."""
    convolutions = [layer for layer in AlexNet().features if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]


# The shipped weights


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_weights_are_small_half_precision_and_say_where_they_come_from(name):
    path = zoo.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 4_000_000
    with safe_open(path, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    model, about = zoo.load(name)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert set(about["wnids"]) <= {label.wnid for label in imagenet_classes()} and len(set(about["wnids"])) == 200
    entry = zoo.ZOO[name]
    assert (about["recipe"]["optimizer"], about["recipe"]["learning_rate"]) == (entry.optimizer, entry.learning_rate)


def test_all_weights_together_stay_below_30_mb():
    assert sum((zoo.WEIGHTS / f"{name}.safetensors").stat().st_size for name in NAMES) <= 30_000_000


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "pickle", "other network"])
def test_unusable_weights_are_named_with_what_to_do(tmp_path, damage):
    path = tmp_path / "alexnet.safetensors"
    shutil.copy(zoo.WEIGHTS / "alexnet.safetensors", path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        os.truncate(path, 100_000)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "pickle":
        torch.save({"weight": torch.ones(1)}, path)
    else:
        save_file({"weight": torch.ones(1)}, path)
    with pytest.raises(RuntimeError, match=r"alexnet\.safetensors.*git checkout"):
        zoo.load("alexnet", tmp_path)


# The recorded results


def test_every_network_has_results_a_curve_and_a_grid_that_agree_with_its_entry():
    assert list(RESULTS) == NAMES
    for name, entry in zoo.ZOO.items():
        row, curve = RESULTS[name], read_csv(zoo.WEIGHTS / f"{name}.csv")
        assert len(curve) == int(row["epochs"])
        assert float(row["top1"]) == pytest.approx(float(curve[-1]["val_top1"]), abs=0.3)  # the curve: float32 weights
        assert float(row["top5"]) == pytest.approx(float(curve[-1]["val_top5"]), abs=0.3)
        grid = read_csv(zoo.WEIGHTS / "grid" / f"{name}.csv")
        held_out = {(line["optimizer"], float(line["learning_rate"])): float(line["held_out_top1"]) for line in grid}
        best = max(held_out.values())
        standard_error = (best * (100 - best) / 5000) ** 0.5  # in points, of a share of 5,000 images
        assert held_out[entry.optimizer, entry.learning_rate] >= best - standard_error


def test_the_page_of_the_zoo_shows_the_recorded_results(tmp_path):
    page = (ROOT / "zoo" / "README.md").read_text(encoding="utf-8")
    assert table(list(RESULTS.values())) in page
    draw_chart(list(RESULTS.values()), tmp_path / "accuracy.svg")
    for chart in (tmp_path / "accuracy.svg", ROOT / "zoo" / "accuracy.svg"):
        description = ElementTree.parse(chart).findtext(".//{http://purl.org/dc/elements/1.1/}description")
        assert description == table(list(RESULTS.values()))


def test_the_mean_over_the_classes_is_the_top_1_accuracy():
    rows = read_csv(zoo.WEIGHTS / "per_class.csv")
    for name in NAMES:
        assert [row["wnid"] for row in rows] == zoo.load(name)[1]["wnids"]
        assert np.mean([float(row[name]) for row in rows]) == pytest.approx(float(RESULTS[name]["top1"]), abs=0.06)


@pytest.mark.skipif(not SHARDS.exists(), reason="needs Tiny-ImageNet-200, which the course does not ship")
def test_the_shipped_weights_reach_their_recorded_accuracies_on_five_of_the_classes():
    images, labels = load_tiny_imagenet(SHARDS, splits=("val",))["val"]
    chosen = labels % 40 == 0
    images, labels = images[chosen], labels[chosen]  # all 50 of each class, so that the recorded share is known
    recorded = read_csv(zoo.WEIGHTS / "per_class.csv")[::40]
    for name in NAMES:
        hits = top_k_correct(zoo.load(name)[0], images, labels)[:, 0]
        found = [100 * hits[labels == label].float().mean().item() for label in labels.unique()]
        expected = [float(row[name]) for row in recorded]
        assert found == pytest.approx(expected, abs=2.1)  # one image more or less, of a machine that rounds otherwise
        assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.5)  # one image of all 250


def test_comparing_results_finds_each_difference_and_allows_a_tenth_of_a_point():
    recorded = {"parameters": "10", "multiply_adds": "20", "top1": "30.00", "top5": "60.00"}
    same = {"parameters": 10, "multiply_adds": 20, "top1": 30.1, "top5": 59.9}
    assert differences(same, recorded) == []
    for key in recorded:
        assert len(differences({**same, key: same[key] + 1}, recorded)) == 1


# Reading Tiny-ImageNet


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A Tiny-ImageNet of all 200 classes with two training images and one validation image each, as a folder."""
    root = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    wnids = zoo.load("alexnet")[1]["wnids"]
    annotations = []
    generator = np.random.default_rng(0)

    def save(path: Path, label: int, gray: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 40, (64, 64, 3), dtype=np.uint8) + np.uint8(label)
        Image.fromarray(pixels).convert("L" if gray else "RGB").save(path)

    for label, wnid in enumerate(wnids):
        for i in range(2):
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", label, gray=label == 3)
        save(root / "val" / "images" / f"val_{label}.JPEG", label)
        annotations.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    return root


def test_folder_zip_and_parts_give_the_same_data(tiny, tmp_path):
    whole, parts = tmp_path / "tiny.zip", tmp_path / "parts"
    parts.mkdir()
    files = [path for path in sorted(tiny.rglob("*")) if path.is_file()]
    groups = {
        whole: files,
        parts / "tiny-imagenet-200-a.zip": files[1::2],
        parts / "tiny-imagenet-200-b.zip": files[::2],
    }
    for archive, members in groups.items():
        with zipfile.ZipFile(archive, "w") as file:
            for member in members:
                file.write(member, f"tiny-imagenet-200/{member.relative_to(tiny).as_posix()}")
    folder, *others = (load_tiny_imagenet(source) for source in (tiny, whole, parts))
    assert folder["train"][0].shape == (400, 3, 64, 64) and folder["val"][0].shape == (200, 3, 64, 64)
    brightness = folder["val"][0].float().mean((1, 2, 3))
    assert torch.corrcoef(torch.stack([brightness, folder["val"][1].float()]))[0, 1] > 0.99  # labels fit the images
    for other in others:
        assert other["wnids"] == folder["wnids"]
        for split in ("train", "val"):
            assert all(torch.equal(a, b) for a, b in zip(other[split], folder[split], strict=True))
    assert "train" not in load_tiny_imagenet(tiny, splits=("val",))


def test_a_source_without_tiny_imagenet_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Tiny-ImageNet-200"):
        load_tiny_imagenet(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no .*no such folder\. Get http.*tiny-imagenet-200\.zip"):
        load_tiny_imagenet(tmp_path / "no such folder")


def test_data_that_is_damaged_or_incomplete_is_named(tiny, tmp_path):
    (tmp_path / "wnids.txt").write_text((tiny / "wnids.txt").read_text())
    with pytest.raises(FileNotFoundError, match="holds no images of train and val"):
        load_tiny_imagenet(tmp_path)
    archive = tmp_path / "tiny.zip"
    archive.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(ValueError, match=r"tiny\.zip is not a complete zip file"):
        load_tiny_imagenet(archive)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tiny / "wnids.txt", "wnids.txt")
    content = bytearray(archive.read_bytes())
    content[100] ^= 1  # a wnid changes, its checksum does not
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"wnids\.txt in .*tiny\.zip is damaged"):
        load_tiny_imagenet(archive)
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "val" / "images" / "val_7.JPEG").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"val_7\.JPEG in .*broken is damaged or has no label"):
        load_tiny_imagenet(broken)
    (broken / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(ValueError, match=r"val_0\.JPEG in .*broken is damaged or has no label"):
        load_tiny_imagenet(broken)
    with pytest.raises(SystemExit, match="holds 200 of the 10,000 images of val"):
        tiny_imagenet.load_for_command(tiny, ("val",))


def test_inputs_are_normalized_with_imagenets_mean_and_deviation():
    gray = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    expected = (torch.tensor([128 / 255] * 3) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(normalize(gray)[0, :, 0, 0], expected)


def test_top_k_correct_finds_the_rank_of_the_label():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.arange(10.0).expand(len(x), 10)  # class 9 is the best guess, then 8, 7 …

    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    hits = top_k_correct(Constant(), images, torch.tensor([9, 8, 5, 0]), batch_size=3)
    assert hits.int().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]


def test_evaluation_gives_a_row_and_the_accuracy_of_each_class(tiny):
    images, labels = load_tiny_imagenet(tiny, splits=("val",))["val"]
    row, per_class = evaluate("alexnet", images, labels)
    assert [*row, "images_per_second", "speed_device"] == list(RESULTS["alexnet"])
    assert row["parameters"] == int(RESULTS["alexnet"]["parameters"])
    assert len(per_class) == 200 and np.mean(per_class) == pytest.approx(row["top1"], abs=0.01)


def test_all_networks_take_turns_when_their_speed_is_measured(monkeypatch):
    times = iter((0.1, 0.3, 0.2, 0.4, 0.64, 0.5))  # seconds for 64 images; the two networks alternate
    monkeypatch.setattr("zoo.evaluate.benchmark", lambda function: (function(), SimpleNamespace(median=next(times)))[1])
    assert speeds(["alexnet", "vgg"], "cpu", rounds=3) == {"alexnet": 320, "vgg": 160}


def test_the_evaluation_command_fails_where_the_table_does_not_fit(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--data", str(tiny)])
    monkeypatch.setattr("zoo.evaluate.ZOO", ["alexnet", "resnet"])
    monkeypatch.setitem(tiny_imagenet.IMAGES, "val", 200)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1  # on these images no network reaches its recorded accuracy
    assert capsys.readouterr().out.count("recorded is") >= 2


# The tables


def test_a_table_is_read_as_it_was_written_and_never_half_written(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    assert read_csv(path) == []
    write_csv(path, [{"name": "a,b", "value": 1}, {"name": "ü", "value": 2.5}])
    assert read_csv(path) == [{"name": "a,b", "value": "1"}, {"name": "ü", "value": "2.5"}]
    with pytest.raises(ValueError):
        write_csv(path, [{"name": "new", "value": 1}, {"other": 2}])
    assert read_csv(path)[0]["name"] == "a,b"


# Training


def test_depthwise_convolutions_that_bfloat16_would_slow_down_stay_in_float32():
    x = torch.randn(2, 8, 9, 9)
    for kernel_size, stride, groups, dtype in (
        (3, 2, 8, torch.float32),
        (5, 1, 8, torch.float32),
        (3, 1, 8, torch.bfloat16),
        (3, 2, 1, torch.bfloat16),
    ):
        conv = nn.Conv2d(8, 8, kernel_size, stride, padding=1, groups=groups)
        expected = conv(x)
        slow_depthwise_in_float32(nn.Sequential(conv))
        torch.testing.assert_close(conv(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(x).dtype == dtype


@pytest.mark.parametrize(
    "gpu, instructions, expected",
    [
        (True, {}, "bf16-mixed"),
        (False, {"avx512_bf16": True}, "32-true"),  # the GPU decides
        (None, {"avx2": True, "avx512_bf16": False}, "32-true"),
        (None, {"amx_bf16": True}, "bf16-mixed"),
        (None, {"neon": True, "bf16": True}, "bf16-mixed"),
    ],
)
def test_bfloat16_is_for_hardware_that_computes_in_it(gpu, instructions, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or gpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert precision() == expected


def test_training_improves_resumes_and_repeats_itself(tiny, tmp_path):
    data = load_tiny_imagenet(tiny)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision())
    recipe = Recipe("adamw", 1e-3, epochs=2, small_epochs=1, batch_size=50, warmup_epochs=1)
    weights, history = train(fabric, "alexnet", AlexNet, data, recipe, tmp_path / "a.ckpt")
    assert [row["image_size"] for row in history] == [48, 64]
    assert np.isfinite([row["train_loss"] for row in history]).all()
    # Interrupted after the first epoch: the second continues as if nothing had happened.
    checkpoint = tmp_path / "b.ckpt"
    torch.manual_seed(recipe.seed)
    assert all(not torch.equal(value, weights[name]) for name, value in AlexNet().named_parameters())
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert state["recipe"]["epochs"] == 2 and len(state["history"]) == 2
    with pytest.raises(KeyboardInterrupt):
        interrupted(train, fabric, data, recipe, checkpoint)
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 1
    again, resumed = train(fabric, "alexnet", AlexNet, data, recipe, checkpoint)
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in history]
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    # Of another training, or damaged: nothing is lost, and the user decides.
    before = checkpoint.read_bytes()
    fewer = data | {"train": tuple(tensor[:350] for tensor in data["train"])}
    for other_recipe, build, other_data, says in (
        (replace(recipe, learning_rate=2e-3), AlexNet, data, "recipe"),
        (recipe, partial(AlexNet, dropout=0.5), data, "network"),
        (recipe, AlexNet, fewer, "images"),
    ):
        with pytest.raises(SystemExit, match=rf"b\.ckpt is of another training \({says}\): delete it"):
            train(fabric, "alexnet", build, other_data, other_recipe, checkpoint)
    assert checkpoint.read_bytes() == before
    os.truncate(checkpoint, 1000)
    with pytest.raises(SystemExit, match=r"b\.ckpt cannot be read: delete it"):
        train(fabric, "alexnet", AlexNet, data, recipe, checkpoint)


def test_training_learns_four_colors():
    labels = torch.arange(100) % 4
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    images = colors[labels][:, :, None, None].expand(-1, -1, 64, 64).contiguous()
    recipe = Recipe("adamw", 1e-3, epochs=4, small_epochs=0, batch_size=20, label_smoothing=0.0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision())
    data = {"train": (images, labels), "val": (images, labels)}
    _, history = train(fabric, "alexnet", AlexNet, data, recipe)
    assert history[-1]["train_loss"] < 1.5 < history[0]["train_loss"]
    assert history[-1]["val_top1"] > 90


def test_the_learning_rate_rises_in_a_line_and_falls_along_half_a_cosine():
    recipe = Recipe("sgd", 0.1, epochs=16, warmup_epochs=1)
    rates = [learning_rate_at(epoch, recipe) for epoch in (0, 0.5, 1, 8.5, 16)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_of_layers_are_decayed_biases_and_normalization_are_not(optimizer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, others = build_optimizer(model, Recipe(optimizer, 0.1)).param_groups
    assert [parameter.ndim for parameter in decayed["params"]] == [4, 2] and decayed["weight_decay"] > 0
    assert [parameter.ndim for parameter in others["params"]] == [1] * 4 and others["weight_decay"] == 0


def interrupted(train, fabric, data, recipe, checkpoint) -> None:
    """Run `train`, but interrupt it as soon as the first checkpoint is there."""

    barrier = fabric.barrier

    def stop(*arguments) -> None:
        if checkpoint.exists():
            raise KeyboardInterrupt
        barrier(*arguments)

    fabric.barrier = stop
    try:
        train(fabric, "alexnet", AlexNet, data, recipe, checkpoint)
    finally:
        fabric.barrier = barrier


def test_augmented_images_are_crops_of_the_original():
    ramp = torch.linspace(0, 1, 64).expand(50, 3, 64, 64)  # brighter from left to right
    crops = augment(ramp, 48, 0.35, torch.Generator().manual_seed(0))
    assert crops.shape == (50, 3, 48, 48)
    assert crops.min() >= 0 and crops.max() <= 1
    rise = crops[:, 0, 24, -1] - crops[:, 0, 24, 0]
    assert (rise > 0.4).sum() > 10 and (rise < -0.4).sum() > 10  # about half are mirrored
    assert len(rise.unique()) > 40  # and each is another crop
    assert rise.abs().min() > (0.35 * 3 / 4) ** 0.5 - 0.03  # of at least 35 % of the area, at most 4:3
    same = augment(ramp, 48, 0.35, torch.Generator().manual_seed(0))
    assert torch.equal(crops, same)


@dataclass(frozen=True)
class Short(Recipe):
    epochs: int = 2
    small_epochs: int = 1
    warmup_epochs: int = 0


def test_the_training_command_compares_settings_trains_and_ships_what_loads(tmp_path, monkeypatch, capsys):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 255, (480, 3, 64, 64), generator=generator, dtype=torch.uint8), torch.arange(480)
    tiny = {
        "train": (images, labels % 200),
        "val": (images[:200], labels[:200]),
        "wnids": [f"n{n}" for n in range(200)],
    }
    monkeypatch.setattr(zoo_train, "load_for_command", lambda source: tiny)
    monkeypatch.setattr(zoo_train, "WEIGHTS", tmp_path)
    monkeypatch.setattr(zoo_train, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(zoo_train, "GRID_EPOCHS", 1)
    monkeypatch.setattr(zoo_train, "Recipe", Short)
    for options in (["--grid"], [], []):
        monkeypatch.setattr(sys, "argv", ["train", "alexnet", "--data", "tiny.zip", *options])
        zoo_train.main()
    assert "trained already" in capsys.readouterr().out
    grid = read_csv(tmp_path / "grid" / "alexnet.csv")
    assert [(row["optimizer"], float(row["learning_rate"])) for row in grid] == list(zoo_train.GRID)
    assert [row["epoch"] for row in read_csv(tmp_path / "alexnet.csv")] == ["1", "2"]
    model, about = zoo.load("alexnet", tmp_path)
    assert about["wnids"] == tiny["wnids"] and about["recipe"]["epochs"] == 2
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
