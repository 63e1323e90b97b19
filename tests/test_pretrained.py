"""Which weights a classifier gets, that they are checked, and that its predictions are those of the network."""

import functools
import hashlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from zipfile import ZipFile

import nbformat
import pytest
import torch
from PIL import Image

import zoo
from course_server import CourseServer, good
from notebooks import NOTEBOOKS, ROOT
from utils import data, prefetch, pretrained
from utils.data import DownloadError, MicroImageNet, imagenet_classes
from utils.pretrained import load_classifier

SMALL = "squeezenet1_1"  # torchvision's smallest classifier, in whose place no micro network stands


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network and an empty cache, until a test says otherwise."""
    for name in ("COURSE_DATA", "COURSE_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    go(monkeypatch, online=False)
    yield
    data._unreachable.cache_clear()


def go(monkeypatch, online: bool) -> None:
    monkeypatch.setenv("COURSE_OFFLINE", "0" if online else "1")
    data._unreachable.cache_clear()


@pytest.fixture
def server(monkeypatch):
    """A server that has weights for SMALL; torchvision's description of them is changed to name it."""
    from torchvision.models import get_model  # after utils, which makes it importable

    torch.manual_seed(0)
    model = get_model(SMALL, weights=None)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    content = file.getvalue()
    real = pretrained.full_weights(SMALL)
    with CourseServer() as server:
        path = f"/{SMALL}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        server.answers = {path: good(content), "/imagen.zip": good(b"")}
        described = SimpleNamespace(url=server.url(path), name=real.name, transforms=real.transforms, meta=real.meta)
        monkeypatch.setattr(pretrained, "full_weights", lambda name: described if name == SMALL else None)
        monkeypatch.setattr(data, "MIRRORS", [server.url("/imagen.zip")])
        server.path, server.model = path, model.eval()
        yield server


def test_without_a_network_the_micro_network_stands_in_and_says_so(capsys):
    classifier = load_classifier("alexnet")
    said = capsys.readouterr().out
    assert "alexnet-owt-7be5be79.pth is not in the cache" in said and classifier.source in said
    assert re.fullmatch(
        r"micro_alexnet: 1\.5 M parameters, 64×64 pixels, for 200 classes of ImageNet\.", classifier.source
    )
    assert len(classifier.categories) == len(classifier.wnids) == 200


def test_the_micro_network_can_be_had_under_its_own_name(capsys):
    assert load_classifier("micro_alexnet").source == load_classifier("alexnet").source


def test_names_and_wordnet_ids_of_the_micro_network_belong_together():
    classifier = load_classifier("micro_alexnet")
    name_of = {label.wnid: label.name for label in imagenet_classes()}
    assert classifier.categories == [name_of[wnid] for wnid in classifier.wnids]
    assert {"tabby", "espresso", "projectile", "military uniform"} <= set(classifier.categories)


@pytest.mark.parametrize("name", ["lenet", "ssd300_vgg16", "vit_h_14"])  # unknown, no classifier, no ImageNet weights
def test_a_name_of_no_classifier_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=rf"'{name}'.*micro_alexnet"):
        load_classifier(name)


def test_full_weights_are_downloaded_once_and_then_come_from_the_cache(server, monkeypatch):
    go(monkeypatch, online=True)
    classifier = load_classifier(SMALL)
    assert classifier.source == f"{SMALL}: torchvision's weights IMAGENET1K_V1, for the 1,000 classes of ImageNet."
    assert classifier.categories == [label.name for label in imagenet_classes()]
    assert not classifier.model.training
    go(monkeypatch, online=False)
    again = load_classifier(SMALL)
    assert server.downloads(server.path) == 1
    image = Image.new("RGB", (300, 260), "orange")
    expected = server.model(classifier.transform(image)[None])
    torch.testing.assert_close(again.logits([image]), expected.detach(), rtol=1e-4, atol=1e-4)


def test_weights_with_other_content_are_not_used(server, monkeypatch):
    go(monkeypatch, online=True)
    server.answers[server.path] = good(b"something else")
    with pytest.raises(DownloadError, match="other content than expected"):
        load_classifier(SMALL)


FULL = sorted(filter(pretrained.full_weights, set().union(*prefetch.NEEDS.values(), ["inception_v3"])))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FULL)
def test_a_full_network_is_built_as_torchvision_builds_it_around_its_weights(tmp_path, monkeypatch, name):
    from torchvision.models import get_model

    weights = pretrained.full_weights(name)
    state = get_model(name, weights=None, **pretrained.OPTIONS.get(name, {})).state_dict()
    if name.startswith("densenet"):  # whose files are older than the counters of batch normalization, and its names
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        state = {re.sub(r"(layer\d+\.\w+)(\d)\.", r"\1.\2.", key): value for key, value in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: state)  # in place of a download
    theirs = get_model(name, weights=weights).eval()
    ours = pretrained._full_classifier(name, weights, tmp_path / "weights.pth").model.cpu()
    x = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_weights_that_timm_alone_has_are_fetched_the_same_way(server, monkeypatch):
    from timm.models import get_pretrained_cfg

    go(monkeypatch, online=True)
    content = b"weights of a model of timm"
    path = f"/small_ra-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.answers[path] = good(content)
    described = replace(get_pretrained_cfg("test_resnet"), url=server.url(path))
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: described)
    assert pretrained.fetch_weights("test_resnet").read_bytes() == content
    go(monkeypatch, online=False)
    assert pretrained.fetch_weights("test_resnet").name == path[1:] and server.downloads(path) == 1


@pytest.mark.parametrize("name", ["vit_base_patch16_224.augreg_in21k", "no_such_model"])
def test_weights_whose_address_has_no_hash_are_refused(name):
    with pytest.raises(ValueError, match=rf"No server has weights of '{name}' whose address carries a hash"):
        pretrained.fetch_weights(name)


def test_each_file_of_weights_carries_the_beginning_of_its_hash_in_its_name():
    for name in set().union(*prefetch.NEEDS.values()) - {prefetch.PHOTOGRAPHS, *pretrained.CLIP_WEIGHTS}:
        with pytest.raises(
            DownloadError, match=r"-[0-9a-f]{8,}\.pth is not in the cache, and COURSE_OFFLINE=1 forbids"
        ):
            pretrained.fetch_weights(name)


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_is_not_called_a_bad_file(server, monkeypatch, error):
    def load(*_, **__) -> None:
        raise error

    go(monkeypatch, online=True)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match=f"too little memory for {SMALL}: shut down other kernels"):
        load_classifier(SMALL)


@pytest.mark.parametrize("content", ["malicious", "other network", "no pickle"])
def test_weights_whose_hash_is_right_and_whose_content_is_not_are_refused(server, tmp_path, monkeypatch, content):
    file = io.BytesIO()
    if content == "no pickle":
        file.write(b"something else")
    else:
        torch.save({"features.0.weight": Malicious(str(tmp_path / "made")) if content == "malicious" else 0}, file)
    path = f"/{SMALL}-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"
    server.answers[path] = good(file.getvalue())
    pretrained.full_weights(SMALL).url = server.url(path)
    go(monkeypatch, online=True)
    with pytest.raises(RuntimeError, match=rf"{SMALL}-\w+\.pth is no file of weights for {SMALL} \(.+\)\. Delete it"):
        load_classifier(SMALL)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory\nCompile with …")]
)
def test_a_full_gpu_leaves_the_network_on_the_cpu_and_says_what_to_do(monkeypatch, capsys, error):
    def to(model: torch.nn.Module, device: str) -> torch.nn.Module:
        if device == "cuda":
            raise error
        return model

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    classifier = load_classifier("micro_alexnet")
    assert "shut down the kernels" in capsys.readouterr().out
    assert classifier.logits([Image.new("RGB", (64, 64))]).shape == (1, 200)


def test_a_gpu_that_cannot_compute_leaves_the_network_on_the_cpu_and_says_why(monkeypatch, capsys):
    def ones(*size: int, device: str) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution\nCompile with …")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, device: model)
    monkeypatch.setattr(torch, "ones", ones)
    classifier = load_classifier("micro_alexnet")
    printed = capsys.readouterr().out
    assert "cannot be used (CUDA error: no kernel image is available for execution)" in printed
    assert "CUDA_VISIBLE_DEVICES= make lab" in printed
    assert classifier.logits([Image.new("RGB", (64, 64))]).shape == (1, 200)


def test_without_full_weights_and_micro_network_the_error_names_the_file_and_the_command(server):
    with pytest.raises(DownloadError, match=rf"{server.path[1:]} is not in the cache.*make prefetch"):
        load_classifier(SMALL)


def test_predictions_are_the_largest_probabilities_in_order():
    classifier = load_classifier("micro_alexnet")
    photographs = MicroImageNet()
    images = [photographs[i][0] for i in range(5)]
    names, probabilities = classifier.predict(images, k=3)
    with torch.inference_mode():
        expected = zoo.load("alexnet")[0](torch.stack([classifier.transform(image) for image in images])).softmax(1)
    assert probabilities.shape == (5, 3) and (probabilities.diff() <= 0).all()
    torch.testing.assert_close(probabilities, expected.topk(3).values, rtol=1e-4, atol=1e-5)
    assert names == [[classifier.categories[j] for j in row] for row in expected.topk(3).indices.tolist()]


def test_batches_and_their_size_do_not_matter():
    classifier = load_classifier("micro_alexnet")
    images = [Image.new("RGB", (80, 64 + i), (40 * i, 100, 0)) for i in range(4)]
    images.append(Image.new("RGBA", (80, 70), (0, 100, 0)))
    torch.testing.assert_close(classifier.logits(images, batch_size=2), classifier.logits(images), rtol=1e-4, atol=1e-4)
    assert classifier.logits([]).shape == (0, 200)
    assert classifier.predict([])[0] == []


def test_the_micro_network_recognizes_sample_photographs():
    """Those whose classes it knows; a wrong mean, deviation or order of channels would break it."""
    photographs = MicroImageNet()
    known = [0, 1, 2, 3]  # cat, espresso, rocket, uniform
    names, _ = load_classifier("micro_alexnet").predict([photographs[i][0] for i in known])
    right = [{imagenet_classes()[index].name for index in photographs.accepted[i]} for i in known]
    assert sum(bool(set(guess) & good) for guess, good in zip(names, right, strict=True)) >= 2


def test_micro_networks_stand_in_for_torchvisions_networks_each_for_its_own():
    from torchvision.models import list_models

    names = [name for entry in zoo.ZOO.values() for name in entry.stands_for]
    assert len(names) == len(set(names)) and set(names) <= set(list_models())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_micro_network_says_first_that_the_espresso_is_one(name):
    names, _ = load_classifier(f"micro_{name}").predict([MicroImageNet()[1][0]], k=1)
    assert names == [["espresso"]]


# Prefetching


def test_prefetch_knows_what_each_notebook_loads():
    needs = {}
    for path in NOTEBOOKS:
        code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        loaded = re.findall(r"(?:load_classifier|load_clip|fetch_weights)\(\"(?!micro_|MicroCLIP)([\w-]+)\"", code)
        loaded += ["ViT-B-32"] if "load_clip()" in code else []
        photographs = [prefetch.PHOTOGRAPHS] if "MicroImageNet()" in code else []
        if loaded or photographs:
            needs[path.name[:2]] = set(photographs + loaded)
    assert {key: set(names) for key, names in prefetch.NEEDS.items()} == needs


def test_prefetch_counts_and_names_what_cannot_be_had(capsys):
    everything = set().union(*prefetch.NEEDS.values())
    assert prefetch.main([]) == len(everything)
    said = capsys.readouterr().out
    assert said.startswith(f"Wanted: {len(everything)} downloads, ")
    assert "COURSE_OFFLINE=1 forbids the network: only" in said
    assert re.search(r"alexnet +244 MB  missing; ", said)
    assert re.search(r"MicroImageNet +106 MB  missing; ", said)


def test_prefetch_names_course_data_that_has_no_photographs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert prefetch.main(["03"]) == 2
    assert f"missing; COURSE_DATA={tmp_path} is no folder or zip" in capsys.readouterr().out


def test_prefetch_of_one_lecture_leaves_the_others_alone(capsys):
    assert prefetch.main(["03"]) == prefetch.main(["3"]) == 2
    assert prefetch.main(["02"]) == 0  # it loads nothing
    said = capsys.readouterr().out
    assert "Wanted: 2 downloads, 158 MB in all." in said and "alexnet" not in said and "googlenet" in said


def test_prefetch_refuses_a_lecture_that_there_is_not():
    command = [sys.executable, "-m", "utils.prefetch", "01", "13", "alexnet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "There is no lecture 13, alexnet" in done.stdout


def test_prefetch_fetches_and_says_what_is_there(server, monkeypatch, capsys):
    go(monkeypatch, online=True)
    monkeypatch.setattr(prefetch, "NEEDS", {"01": (prefetch.PHOTOGRAPHS, SMALL)})
    monkeypatch.setattr(prefetch, "full_weights", pretrained.full_weights)
    assert prefetch.main([]) == 1  # the server has no photographs
    assert re.search(rf"{SMALL} +5 MB  there", capsys.readouterr().out)
    assert server.downloads(server.path) == 1


def test_prefetch_also_packs_the_photographs_for_a_room(tmp_path, monkeypatch):
    (tmp_path / "cache" / prefetch.PHOTOGRAPHS).mkdir(parents=True)
    monkeypatch.setattr(prefetch, "MicroImageNet", lambda: range(750))
    prefetch.obtain(prefetch.PHOTOGRAPHS)
    assert (tmp_path / "cache" / "imagen.zip").exists()


def test_photographs_that_cannot_be_packed_are_there_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache" / prefetch.PHOTOGRAPHS).mkdir(parents=True)

    def fill(base: str, *_) -> str:
        (tmp_path / "cache" / f"{base}.zip").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefetch.shutil, "make_archive", fill)
    prefetch.pack_photographs()
    assert "imagen.zip, to serve the photographs to a room, cannot be written (No space left" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".lock"] == [prefetch.PHOTOGRAPHS]


def test_a_prefetched_cache_can_be_served_to_a_room_by_any_file_server(server, tmp_path, monkeypatch):
    """`python -m http.server` in the teacher's cache, COURSE_MIRROR on the student's machine."""
    go(monkeypatch, online=True)
    photograph = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(photograph, "JPEG")
    content, name = photograph.getvalue(), "n01443537_1_goldfish.jpg"
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        f"file,bytes,sha256,width,height\n{name},{len(content)},{hashlib.sha256(content).hexdigest()},40,30\n"
    )
    monkeypatch.setattr(data, "MANIFEST", manifest)
    archive = io.BytesIO()
    with ZipFile(archive, "w") as zip_file:
        zip_file.writestr(f"imagen-master/{name}", content)
    server.answers["/imagen.zip"] = good(archive.getvalue())
    load_classifier(SMALL)
    assert len(MicroImageNet()) == 1
    prefetch.pack_photographs()

    teacher = tmp_path / "cache"
    room = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=teacher))
    Thread(target=room.serve_forever, daemon=True).start()
    monkeypatch.setenv("COURSE_MIRROR", f"http://127.0.0.1:{room.server_port}")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "student"))
    data._unreachable.cache_clear()
    before = len(server.requests)
    assert load_classifier(SMALL).source.startswith(SMALL)
    assert len(MicroImageNet()) == 1
    assert not [request for request in server.requests[before:] if request.startswith("GET")]
    room.shutdown()
    room.server_close()
