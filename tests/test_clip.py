"""MicroCLIP: its tokenizer, its shipped weights, how it is trained, and the functions of utils that use it."""

import gzip
import hashlib
import json
import os
import shutil
from dataclasses import replace

import utils  # noqa: F401  makes torchvision, which open_clip imports, work beside a CPU-only torch

# isort: split
import open_clip
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

import zoo
from course_server import CourseServer, good
from notebooks import ROOT
from utils import data, pretrained
from utils.data import MicroImageNet
from utils.pretrained import Clip, load_clip, zero_shot_classifier
from zoo import clip as micro
from zoo import train_clip
from zoo.tables import read_csv
from zoo.tiny_imagenet import load_tiny_imagenet

SHARDS = ROOT.parent / "shared" / "data"  # a developer's copy of Tiny-ImageNet-200
WEIGHTS = zoo.WEIGHTS / "clip.safetensors"
TEXTS = ["a cat.", "a photo of the large domestic cat of Egypt, seen from behind.", "an espresso"]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network and an empty cache, until a test says otherwise."""
    for name in ("COURSE_DATA", "COURSE_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data._unreachable.cache_clear()
    yield
    data._unreachable.cache_clear()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip("MicroCLIP")


# The tokenizer and the texts


def test_the_tokenizer_is_clips_with_fewer_merges(clip):
    full = open_clip.get_tokenizer("ViT-B-32")
    tokens = clip.tokenizer(TEXTS)
    assert tokens.shape == (3, clip.context_length) == (3, 32)
    vocabulary = micro.tokenizer().vocab_size
    assert vocabulary == clip.model.vocab_size == 4514
    assert tokens.max() == vocabulary - 1  # the end of the text has the highest id: that is how it is found
    for text in TEXTS:
        assert clip.tokenizer.decode(clip.tokenizer.encode(text)).split() == full.decode(full.encode(text)).split()
    assert clip.tokenizer.encode("a photo of a cat") == full.encode("a photo of a cat")


def test_the_merges_that_ship_are_those_that_training_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(train_clip, "MERGES", tmp_path / "merges.txt.gz")
    train_clip.write_merges()
    written, shipped = (gzip.decompress(path.read_bytes()) for path in (tmp_path / "merges.txt.gz", micro.MERGES))
    assert written == shipped  # compressed, they differ between Pythons


def test_names_and_definitions_are_wordnets():
    assert micro.names_of("n03838899") == ["oboe", "hautboy", "hautbois"]
    assert micro.definition_of("n02823428") == "a bottle that holds beer"


def test_captions_are_reproducible_and_name_their_class():
    texts = [train_clip.caption("n02823428", train_clip.random.Random(seed)) for seed in range(40)]
    assert texts == [train_clip.caption("n02823428", train_clip.random.Random(seed)) for seed in range(40)]
    assert all("beer bottle" in text and text.endswith(".") for text in texts)
    assert 5 < sum(text.endswith("beer bottle, a bottle that holds beer.") for text in texts) < 35
    assert len(set(texts)) > 20


def test_twenty_classes_are_held_out():
    with safe_open(WEIGHTS, framework="pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    out = micro.held_out(about["wnids"])
    assert [wnid for wnid, held in zip(about["wnids"], out, strict=True) if held] == about["held_out"]
    assert len(about["wnids"]) == 200 and len(about["held_out"]) == 20


# The towers


def test_encoding_as_far_as_the_longest_text_gives_what_the_padded_texts_give(clip):
    tokens = clip.tokenizer(TEXTS).to(clip.model.logit_scale.device)
    with torch.inference_mode():
        padded = clip.model.encode_text(tokens)
        torch.testing.assert_close(micro.encode_text(clip.model, tokens), padded, rtol=1e-4, atol=1e-5)
    many = clip.encode_texts(TEXTS * 3, batch_size=2)  # sorted by length and put back
    torch.testing.assert_close(many, F.normalize(padded, dim=1).repeat(3, 1).cpu(), rtol=1e-4, atol=1e-5)


def test_images_are_encoded_in_batches_to_unit_vectors(clip):
    images = [Image.new("RGB", (80, 64 + i), (40 * i, 100, 0)) for i in range(5)]
    with torch.inference_mode():
        pixels = torch.stack([clip.transform(image) for image in images]).to(clip.model.logit_scale.device)
        expected = clip.model.encode_image(pixels).cpu()
    vectors = clip.encode_images(images, batch_size=2)
    torch.testing.assert_close(vectors, F.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_a_layer_can_be_trained_on_what_is_encoded(clip):
    for vectors in (clip.encode_images([Image.new("RGB", (64, 64))]), clip.encode_texts(["a cat."])):
        layer = torch.nn.Linear(vectors.shape[1], 2)
        layer(vectors).sum().backward()
        assert layer.weight.grad is not None
        assert not vectors.requires_grad


def test_a_zero_shot_classifier_averages_the_prompts_of_each_class(clip):
    templates = ["a photo of a {}.", lambda name: f"a drawing of the {name}."]
    rows = []
    for name in ("cat", "espresso"):
        vectors = clip.encode_texts([f"a photo of a {name}.", f"a drawing of the {name}."])
        rows.append(F.normalize(vectors.mean(0), dim=0))
    torch.testing.assert_close(
        zero_shot_classifier(clip, ["cat", "espresso"], templates), torch.stack(rows), rtol=1e-4, atol=1e-5
    )


def test_one_text_is_no_list_of_texts_and_nothing_gives_no_vectors(clip):
    for function in (clip.encode_texts, lambda text: zero_shot_classifier(clip, text)):
        with pytest.raises(TypeError, match=r"such as \['cat'\]"):
            function("cat")
    assert clip.encode_texts([]).shape == clip.encode_images([]).shape == (0, 256)
    assert zero_shot_classifier(clip, []).shape == (0, 256)
    one = zero_shot_classifier(clip, ["cat"], "a drawing of a {}.")
    torch.testing.assert_close(one, zero_shot_classifier(clip, ["cat"], ["a drawing of a {}."]))


def test_the_texts_of_a_classifier_are_encoded_once(clip, monkeypatch):
    seen = []
    monkeypatch.setattr(
        micro, "encode_text", lambda model, tokens: seen.append(len(tokens)) or torch.ones(len(tokens), 256)
    )
    zero_shot_classifier(clip, ["cat", "dog", "cow"])
    assert seen == [3]


# The weights


def test_without_a_network_microclip_stands_in_and_says_so(capsys):
    clip = load_clip("ViT-B-32")
    said = capsys.readouterr().out
    assert "ViT-B-32-ac4f8c4b.safetensors is not in the cache" in said and clip.source in said
    assert clip.source == "MicroCLIP: 3.5 M parameters, 64×64 pixels, 180 classes of ImageNet."
    assert not clip.model.training
    assert 1 < clip.logit_scale <= 100


def test_a_name_that_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'RN50'.*ViT-B-32, MicroCLIP"):
        load_clip("RN50")


def test_full_weights_are_downloaded_once_checked_and_loaded_by_open_clip(tmp_path, monkeypatch, clip):
    """MicroCLIP's configuration under another name takes the place of ViT-B-32, which is a hundred times larger."""
    shutil.copy(ROOT / "zoo" / "MicroCLIP.json", tmp_path / "SmallCLIP.json")
    open_clip.add_model_config(tmp_path / "SmallCLIP.json")
    content = WEIGHTS.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("COURSE_OFFLINE", "0")
    with CourseServer() as server:
        server.answers = {"/clip.safetensors": good(content), "/imagen.zip": good(b"")}
        monkeypatch.setattr(data, "MIRRORS", [server.url("/imagen.zip")])
        monkeypatch.setattr(pretrained, "CLIP_WEIGHTS", {"SmallCLIP": (server.url("/clip.safetensors"), digest, 7)})
        data._unreachable.cache_clear()
        for _ in range(2):
            full = load_clip("SmallCLIP")
        assert full.source == "SmallCLIP: trained on LAION-2B by OpenCLIP."
        assert server.downloads("/clip.safetensors") == 1
    assert full.tokenizer.vocab_size == 49408  # the full model's own
    for key, value in clip.model.state_dict().items():
        torch.testing.assert_close(full.model.state_dict()[key], value)


def test_full_weights_with_other_content_are_not_used(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_OFFLINE", "0")
    with CourseServer() as server:
        server.answers = {"/clip.safetensors": good(WEIGHTS.read_bytes()), "/imagen.zip": good(b"")}
        monkeypatch.setattr(data, "MIRRORS", [server.url("/imagen.zip")])
        monkeypatch.setattr(pretrained, "CLIP_WEIGHTS", {"ViT-B-32": (server.url("/clip.safetensors"), "0" * 64, 7)})
        data._unreachable.cache_clear()
        assert load_clip().source.startswith("MicroCLIP")
    assert "other content than expected" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "other network"])
def test_unusable_weights_are_named_with_what_to_do(tmp_path, damage):
    path = tmp_path / "clip.safetensors"
    shutil.copy(zoo.WEIGHTS / "alexnet.safetensors" if damage == "other network" else WEIGHTS, path)
    if damage == "missing":
        path.unlink()
    elif damage != "other network":
        os.truncate(path, 100_000 if damage == "cut" else 0)
    with pytest.raises(RuntimeError, match=r"clip\.safetensors.*git checkout"):
        micro.load(tmp_path)


def test_the_shipped_weights_are_small_and_half_precision():
    assert WEIGHTS.stat().st_size + micro.MERGES.stat().st_size <= 8_000_000
    with safe_open(WEIGHTS, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys() if file.get_tensor(key).is_floating_point()} == {  # noqa: SIM118
            torch.float16
        }


# What it can do


def test_microclip_finds_the_captions_of_the_sample_photographs(clip):
    photographs = MicroImageNet()
    names = ["tabby cat", "espresso", "rocket", "military uniform"]
    likeness = clip.encode_images([photographs[i][0] for i in range(4)]) @ zero_shot_classifier(clip, names).T
    assert (likeness.argmax(1) == torch.arange(4)).sum() >= 3


def test_the_recorded_accuracies_agree_with_the_curve_and_with_the_data_set():
    rows = read_csv(zoo.WEIGHTS / "clip_results.csv")
    curve = read_csv(zoo.WEIGHTS / "clip.csv")
    assert len(curve) == train_clip.RECIPE.epochs
    assert [row["count"] for row in rows] == ["9000"] * 3 + ["1000"] * 6 + ["50"] * 20
    assert [row["chance"] for row in rows] == ["0.56"] * 3 + ["5.0"] * 3 + ["0.5"] * 3 + ["5.0"] * 20
    assert {row["prompts"] for row in rows} == set(train_clip.PROMPTS)
    assert [row["images"] for row in rows[9:]] == micro.load()[2]["held_out"]
    together = sum(float(row["top1"]) for row in rows[9:]) / 20
    assert together == pytest.approx(float(rows[3]["top1"]), abs=0.01)
    assert float(rows[0]["top1"]) == pytest.approx(float(curve[-1]["val_top1"]), abs=0.3)  # the curve: float32 weights
    assert all(float(row["top1"]) > 2 * float(row["chance"]) for row in rows[:6])


@pytest.mark.skipif(not SHARDS.exists(), reason="needs Tiny-ImageNet-200, which the course does not ship")
def test_the_shipped_weights_reach_their_recorded_accuracies():
    rows = read_csv(zoo.WEIGHTS / "clip_results.csv")
    tiny = load_tiny_imagenet(SHARDS, splits=("val",))
    tiny["val"] = tuple(tensor[::4] for tensor in tiny["val"])
    for row, recorded in zip(train_clip.evaluate(torch.device("cpu"), tiny), rows, strict=True):
        # Three standard deviations of a share measured on a quarter of the images, rounded up.
        allowed = {"trained": 3, "held out": 8}.get(row["images"], 40)
        assert row["top1"] == pytest.approx(float(recorded["top1"]), abs=allowed), row


# Training


def test_training_improves_the_loss_and_resumes_where_it_stopped(tmp_path):
    with safe_open(WEIGHTS, framework="pt") as file:
        wnids = json.loads(file.metadata()["wnids"])
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200)
    colors = torch.randint(0, 255, (200, 3, 1, 1), generator=generator, dtype=torch.uint8)
    images = colors[labels].expand(-1, -1, 64, 64).contiguous()  # each class has its own color
    tiny = {"wnids": wnids, "train": (images, labels), "val": (images, labels)}
    recipe = replace(train_clip.RECIPE, epochs=2, batch_size=12)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    _, history = train_clip.train(fabric, tiny, recipe, tmp_path / "whole.ckpt")
    assert history[1]["train_loss"] < history[0]["train_loss"]

    stop = RuntimeError("interrupted")

    def save_once(path, state, save=fabric.save):
        if len(state["history"]) == 2:
            raise stop
        save(path, state)

    fabric.save, save = save_once, fabric.save
    with pytest.raises(RuntimeError, match="interrupted"):
        train_clip.train(fabric, tiny, recipe, tmp_path / "cut.ckpt")
    fabric.save = save
    _, resumed = train_clip.train(fabric, tiny, recipe, tmp_path / "cut.ckpt")
    without_time = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in resumed] == without_time
