"""utils.data against a web server that misbehaves, damaged files and dying processes."""

import hashlib
import io
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from threading import Event
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from PIL import EpsImagePlugin, Image
from torch.utils.data import DataLoader

from course_server import CourseServer, dripping, good, hang, partial, resumable, stalled
from notebooks import ROOT
from utils import data

REAL_PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "imagen-256.zip"
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = 60  # seconds that a busy machine may take for what is done in a moment otherwise
PERSON, GOLDFISH, SAW = "n00007846_1_person.jpg", "n01443537_2_goldfish.jpg", "n03000684_3_chain_saw.jpg"


@pytest.fixture
def server():
    with CourseServer() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return an empty cache, in a process that may use the network and has not asked for it yet."""
    for name in ["COURSE_OFFLINE", "COURSE_DATA", "COURSE_MIRROR"]:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "box" / "cache"
    monkeypatch.setenv("COURSE_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "ONLINE_SECONDS", PATIENCE)
    monkeypatch.setattr(data, "WEIGHT_HOSTS", [])
    data._unreachable.cache_clear()
    yield folder
    data._unreachable.cache_clear()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Return the addresses of two mirrors; both say 404 until a test gives them something."""
    addresses = [server.url("/first.zip"), server.url("/second.zip")]
    monkeypatch.setattr(data, "MIRRORS", addresses)
    return addresses


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


PHOTOGRAPHS = {name: jpeg(seed) for seed, name in enumerate([PERSON, GOLDFISH, SAW])}


def zipped(files: dict[str, bytes], compression: int = ZIP_STORED) -> bytes:
    archive = io.BytesIO()
    with ZipFile(archive, "w", compression) as zip_file:
        for name, content in files.items():
            zip_file.writestr(name, content)
    return archive.getvalue()


ARCHIVE = zipped({f"imagen-master/imagen/{name}": content for name, content in PHOTOGRAPHS.items()})


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    rows = [f"{name},{len(file)},{hashlib.sha256(file).hexdigest()},40,48" for name, file in PHOTOGRAPHS.items()]
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(["file,bytes,sha256,width,height", *rows]))
    monkeypatch.setattr(data, "MANIFEST", path)
    return path


def start(code: str, manifest: Path | None = None) -> subprocess.Popen:
    """Run `code` in another process, which has the same mirrors, manifest and environment."""
    lines = ["from utils import data", f"data.MIRRORS = {data.MIRRORS}", f"data.ONLINE_SECONDS = {PATIENCE}"]
    lines += ["data.WEIGHT_HOSTS = []"]
    lines += [f"data.MANIFEST = data.Path({str(manifest)!r})"] if manifest else []
    script = "\n".join([*lines, code])
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


# Importing, class names


def test_importing_utils_and_data_imports_no_heavy_package():
    code = "import sys, utils, utils.data; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torchvision", "timm", "sklearn", "skimage", "matplotlib", "open_clip"]
    output = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout == "[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere, torchvision is built for the CPU alone.")
@pytest.mark.parametrize(
    "file, loadable, declared",
    [("_C.so", False, True), ("_C_stable.so", True, False), ("_C_stable.so", False, True), ("renamed.so", True, False)],
)
def test_operators_of_torchvision_are_declared_only_where_its_own_cannot_be_loaded(tmp_path, file, loadable, declared):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    if loadable:  # any library will do
        (package / file).symlink_to(torch._C.__file__)
    else:
        (package / file).write_bytes(b"built for another torch")
    code = "import utils, torch; print(hasattr(torch.ops.torchvision, 'nms'))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{declared}\n"


def test_the_1000_classes_have_different_names_and_wordnet_ids_at_their_indices():
    classes = data.imagenet_classes()
    assert [label.index for label in classes] == list(range(1000))
    assert len({label.name for label in classes}) == len({label.wnid for label in classes}) == 1000
    assert [classes[i] for i in (0, 134, 517, 999)] == [
        (0, "tench", "n01440764"),
        (134, "crane bird", "n02012849"),
        (517, "crane", "n03126707"),
        (999, "toilet tissue", "n15075141"),
    ]


# online()


def test_offline_mode_asks_no_server(server, mirrors, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_MIRROR", server.url(""))
    assert not data.online()
    with pytest.raises(data.DownloadError, match="not in the cache"):
        data.fetch("file", mirrors, SHA256)
    assert server.requests == []


def test_one_answer_is_enough_to_be_online_and_it_is_asked_for_once(server, mirrors, monkeypatch):
    monkeypatch.setenv("COURSE_MIRROR", server.url("/mirror"))
    server.answers = {"/first.zip": hang, "/second.zip": hang}
    start = time.monotonic()
    assert data.online() and data.online()
    assert time.monotonic() - start < 10
    assert server.requests.count("HEAD /mirror/imagen.zip") == 1


def test_where_only_a_server_of_weights_answers_there_is_a_network(server, mirrors, monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", ["http://127.0.0.1:9/imagen.zip"])  # nobody listens there
    assert not data.online()
    data._unreachable.cache_clear()
    monkeypatch.setattr(data, "WEIGHT_HOSTS", [server.url("")])
    assert data.online()


def test_a_course_mirror_that_does_not_answer_is_named(mirrors, monkeypatch):
    monkeypatch.setenv("COURSE_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(data, "MIRRORS", [])
    with pytest.raises(data.DownloadError, match=r"no network, nor does COURSE_MIRROR=http://127\.0\.0\.1:9 answer"):
        data.fetch("file", mirrors, SHA256)


def test_servers_that_hang_are_given_up_in_time(server, mirrors, monkeypatch):
    monkeypatch.setattr(data, "ONLINE_SECONDS", 0.3)
    server.answers = {"/first.zip": hang, "/second.zip": hang}
    start = time.monotonic()
    assert not data.online()
    assert time.monotonic() - start < 10


def test_a_name_server_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(data, "ONLINE_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30))
    start = time.monotonic()
    assert not data.online()
    assert time.monotonic() - start < 10


def test_refused_connections_are_no_network(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(data, "MIRRORS", [f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip", "no address"])
        assert not data.online()


# fetch()


def test_a_file_is_downloaded_once_and_checked_by_a_prefix_of_its_hash(server, mirrors, cache):
    server.answers["/first.zip"] = good(CONTENT)
    for _ in range(2):
        path = data.fetch("weights/net.pth", mirrors, SHA256[:8])
        assert path == cache / "weights" / "net.pth" and path.read_bytes() == CONTENT
    assert server.downloads("/first.zip") == 1


def test_the_course_mirror_is_tried_first(server, mirrors, monkeypatch):
    monkeypatch.setenv("COURSE_MIRROR", server.url("/class/"))
    server.answers = {"/class/weights/net.pth": good(CONTENT), "/first.zip": good(CONTENT)}
    data.fetch("weights/net.pth", mirrors, SHA256)
    assert server.downloads("/class/weights/net.pth") == 1 and server.downloads("/first.zip") == 0


BAD = {
    "404": None,
    "cut": partial(CONTENT[:150_000], length=len(CONTENT)),
    "silent": hang,
    "wrong bytes": good(b"x" + CONTENT[1:]),
    "a web page": good(b"\n<!DOCTYPE html><html>Log in</html>", "text/html"),
    "dripping": dripping(CONTENT),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_mirror_is_followed_by_the_next(server, mirrors, cache, monkeypatch, fault):
    monkeypatch.setattr(data, "TIMEOUT", 2)
    monkeypatch.setattr(data, "GRACE_SECONDS", 2 if fault == "dripping" else 30)
    server.answers = {"/first.zip": BAD[fault], "/second.zip": good(CONTENT)}
    start = time.monotonic()
    assert data.fetch("file", mirrors, SHA256).read_bytes() == CONTENT
    assert time.monotonic() - start < 15
    assert server.downloads("/first.zip") == server.downloads("/second.zip") == 1
    assert files_in(cache) == {"file"}


def test_the_error_names_each_address_with_its_reason_and_nothing_is_left(server, mirrors, cache):
    server.answers["/second.zip"] = good(b"other")
    with pytest.raises(data.DownloadError) as error:
        data.fetch("file", mirrors, SHA256)
    assert f"{mirrors[0]}: 404" in str(error.value)
    assert f"{mirrors[1]}: other content than expected" in str(error.value)
    assert files_in(cache) == set()


def test_a_web_page_is_called_what_it_is(server, mirrors):
    server.answers["/first.zip"] = good(b"<html><body>Please accept our terms</body></html>", "text/html")
    with pytest.raises(data.DownloadError, match="a web page"):
        data.fetch("file", mirrors, SHA256)


def test_where_there_is_no_network_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", [])
    with pytest.raises(
        data.DownloadError, match=r"there is no network \(.*\); once there is, restart the kernel, or run `make"
    ):
        data.fetch("file", [], SHA256)
    monkeypatch.setenv("COURSE_MIRROR", "http://127.0.0.1:1")  # where nobody listens
    data._unreachable.cache_clear()
    with pytest.raises(
        data.DownloadError,
        match=r"no network, nor does COURSE_MIRROR=http://127\.0\.0\.1:1 answer \(ConnectionError\); on",
    ):
        data.fetch("file", [], SHA256)


def test_a_damaged_file_is_fetched_anew_or_reported(server, mirrors, cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / "file").write_bytes(CONTENT[:-1])
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(data.DownloadError, match="file is damaged in the cache"):
        data.fetch("file", mirrors, SHA256)
    monkeypatch.delenv("COURSE_OFFLINE")
    data._unreachable.cache_clear()
    server.answers["/first.zip"] = good(CONTENT)
    assert data.fetch("file", mirrors, SHA256).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_reported(server, mirrors, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(data.DownloadError, match=r"cannot be written \(Not a directory\)\. Set COURSE_CACHE"):
        data.fetch("file", mirrors, SHA256)


def test_a_cache_that_cannot_be_read_is_reported(cache, monkeypatch):
    (cache / "file.bin").parent.mkdir(parents=True, exist_ok=True)
    (cache / "file.bin").write_bytes(b"of another user")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data.pooch, "file_hash", refuse)
    with pytest.raises(data.DownloadError, match=r"file\.bin cannot be read \(Permission denied\)"):
        data.fetch("file.bin", [], "abc")


def test_a_full_disk_is_reported_and_leaves_nothing(server, mirrors, cache):
    server.answers["/first.zip"] = good(CONTENT)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    code = "try: data.fetch('file', data.MIRRORS, '0')\nexcept data.DownloadError as error: print(error)"
    assert "cannot be written (File too large)" in start(limit + code).communicate()[0]
    assert files_in(cache) == set()


@pytest.mark.parametrize("ranges", [True, False], ids=["server knows ranges", "server knows none"])
def test_after_a_kill_half_way_nothing_counts_and_the_next_call_goes_on(server, mirrors, cache, ranges):
    server.answers["/first.zip"] = stalled(CONTENT[:200_000], length=len(CONTENT))
    process = start(f"data.fetch('file', data.MIRRORS, '{SHA256}')")
    wait_until(lambda: any(path.stat().st_size > 0 for path in cache.glob(".cut-*-file")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (beginning,) = cache.glob(".cut-*-file")
    size = beginning.stat().st_size
    assert files_in(cache) == {beginning.name} and CONTENT.startswith(beginning.read_bytes())
    server.answers["/first.zip"] = resumable(CONTENT) if ranges else good(CONTENT)
    assert data.fetch("file", mirrors, SHA256).read_bytes() == CONTENT
    assert server.sent == ([(size, len(CONTENT))] if ranges else [])
    assert files_in(cache) == {"file"}


def test_a_download_that_breaks_off_again_and_again_is_finished_in_the_end(server, mirrors, cache):
    for stop_at in (100_000, 200_000):
        server.answers["/first.zip"] = resumable(CONTENT, stop_at)
        with pytest.raises(data.DownloadError, match="what has come is kept, and the next try goes on from there"):
            data.fetch("file", mirrors[:1], SHA256)
        assert not (cache / "file").exists()
    server.answers["/first.zip"] = resumable(CONTENT)
    assert data.fetch("file", mirrors[:1], SHA256).read_bytes() == CONTENT
    firsts = [first for first, _ in server.sent]
    assert firsts[0] == 0 < firsts[1] < firsts[2] and files_in(cache) == {"file"}


def test_a_download_that_was_whole_before_the_kill_is_only_checked(server, mirrors, cache):
    server.answers["/first.zip"] = resumable(CONTENT, 290_000)
    with pytest.raises(data.DownloadError):
        data.fetch("file", mirrors[:1], SHA256)
    (beginning,) = cache.glob(".cut-*-file")
    beginning.write_bytes(CONTENT)
    server.answers["/first.zip"] = resumable(CONTENT)
    assert data.fetch("file", mirrors[:1], SHA256).read_bytes() == CONTENT
    assert len(server.sent) == 1


def test_a_login_page_does_not_cost_what_has_come(server, mirrors, cache):
    server.answers["/first.zip"] = resumable(CONTENT, 200_000)
    with pytest.raises(data.DownloadError):
        data.fetch("file", mirrors[:1], SHA256)
    server.answers["/first.zip"] = BAD["a web page"]
    with pytest.raises(data.DownloadError, match=r"a web page.*kept"):
        data.fetch("file", mirrors[:1], SHA256)
    server.answers["/first.zip"] = resumable(CONTENT)
    assert data.fetch("file", mirrors[:1], SHA256).read_bytes() == CONTENT
    assert server.sent[-1][0] > 0


@pytest.mark.parametrize(
    "page", [b"<head><title>Log in</title>", b"<?xml version='1.0'?><html>", b"\xef\xbb\xbf<html>"]
)
def test_a_page_is_known_by_its_type_however_it_begins(server, mirrors, page):
    server.answers["/first.zip"] = good(page, "text/html; charset=utf-8")
    with pytest.raises(data.DownloadError, match=r"first\.zip: a web page instead of the file"):
        data.fetch("file", mirrors[:1], SHA256)


def test_a_thread_that_was_given_up_leaves_the_file_alone(server, tmp_path):
    server.answers["/f"] = good(b"late")
    path, stop = tmp_path / "beginning", Event()
    path.write_bytes(CONTENT)
    stop.set()  # as Ctrl-C does while the server has not answered yet; another call may be writing to the file by now
    data._receive(server.url("/f"), path, stop, [])
    assert path.read_bytes() == CONTENT


def test_missing_certificates_are_no_fault_of_the_cache(server, monkeypatch):
    monkeypatch.setenv("COURSE_MIRROR", server.url(""))  # answers, but has no file
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/certificates.pem")
    with pytest.raises(data.DownloadError, match=r"could not be downloaded \(.*/nowhere/certificates.pem"):
        data.fetch("file", ["https://127.0.0.1:9/file"], SHA256)


def test_a_cache_on_a_file_system_without_locks_is_reported(server, mirrors, monkeypatch):
    def acquire(*_, **__) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")  # filelock until 3.16

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(data.DownloadError, match=r"cannot be written \(FileSystem does not.*COURSE_CACHE"):
        data.fetch("file", mirrors, SHA256)


def test_a_beginning_of_another_file_is_noticed_and_not_used_again(server, mirrors, cache):
    server.answers["/first.zip"] = resumable(b"x" + CONTENT[1:], 200_000)
    with pytest.raises(data.DownloadError):
        data.fetch("file", mirrors[:1], SHA256)
    server.answers["/first.zip"] = resumable(CONTENT)
    with pytest.raises(data.DownloadError, match="other content than expected"):
        data.fetch("file", mirrors[:1], SHA256)
    assert files_in(cache) == set()
    assert data.fetch("file", mirrors[:1], SHA256).read_bytes() == CONTENT


def test_interrupting_a_download_by_ctrl_c_keeps_what_has_come(server, mirrors, cache):
    server.answers["/first.zip"] = stalled(CONTENT[:200_000], length=len(CONTENT))
    # A process in the background may have been started with this signal ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = start(f"{heed}; data.fetch('file', data.MIRRORS, '{SHA256}')")
    wait_until(lambda: any(path.stat().st_size > 0 for path in cache.glob(".cut-*-file")))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
    server.answers["/first.zip"] = resumable(CONTENT)
    assert data.fetch("file", mirrors, SHA256).read_bytes() == CONTENT
    assert server.sent[0][0] > 0


# MicroImageNet, downloaded


def expect_both_photographs(dataset: data.MicroImageNet) -> None:
    assert [path.name for path in dataset.paths] == [GOLDFISH, SAW]
    assert dataset.labels == [(1, "goldfish", "n01443537"), (491, "chain saw", "n03000684")]
    assert dataset.accepted == [{1}, {491}]
    assert [(image.mode, image.size, index) for image, index in dataset] == [("RGB", (40, 48), i) for i in (1, 491)]


def test_the_photographs_are_downloaded_once_and_said_to_be_there(server, mirrors, cache, manifest, capsys):
    server.answers["/first.zip"] = good(ARCHIVE)
    for _ in range(2):
        dataset = data.MicroImageNet()
        expect_both_photographs(dataset)
        assert dataset.source == "MicroImageNet: 2 photographs of 2 classes, from the cache."
        assert capsys.readouterr().out == f"{dataset.source}\n"
    assert server.downloads("/first.zip") == 1
    assert files_in(cache) == {f"MicroImageNet/{name}" for name in PHOTOGRAPHS}


def test_the_course_mirror_gives_the_photographs_first(server, mirrors, manifest, monkeypatch):
    monkeypatch.setenv("COURSE_MIRROR", server.url("/class"))
    server.answers["/class/imagen.zip"] = good(ARCHIVE)
    expect_both_photographs(data.MicroImageNet())
    assert server.downloads("/first.zip") == 0


def zip_bomb() -> bytes:
    """Return an archive with one entry that says to be as small as the goldfish, and is 20 MB."""
    archive = io.BytesIO()
    with ZipFile(archive, "w", ZIP_DEFLATED) as zip_file:
        zip_file.writestr(f"a/{PERSON}", PHOTOGRAPHS[PERSON])
        zip_file.writestr(f"a/{GOLDFISH}", bytes(20_000_000))
        zip_file.writestr(f"a/{SAW}", PHOTOGRAPHS[SAW])
        zip_file.getinfo(f"a/{GOLDFISH}").file_size = len(PHOTOGRAPHS[GOLDFISH])
    return archive.getvalue()


def damaged(archive: bytes, offset: int, by: bytes = b"\xff" * 8) -> bytes:
    return archive[:offset] + by + archive[offset + len(by) :]


COMPRESSED = zipped(PHOTOGRAPHS, ZIP_DEFLATED)
BAD_ARCHIVES = {
    "cut": ARCHIVE[:-200],
    "no zip": b"no zip",
    "a web page": b"<html>",
    "empty": b"",
    "a photograph is damaged": damaged(ARCHIVE, ARCHIVE.index(PHOTOGRAPHS[SAW]) + 99),
    "the compressed data are wrong": damaged(COMPRESSED, COMPRESSED.index(SAW.encode()) + len(SAW)),
    "unknown compression": damaged(ARCHIVE, ARCHIVE.index(b"PK\1\2") + 10),
    "another compression": damaged(COMPRESSED, COMPRESSED.index(b"PK\1\2") + 10, b"\x0c"),  # bzip2
    "a method that unpacks without limit": zipped(PHOTOGRAPHS, ZIP_LZMA),
    "a photograph is missing": zipped({GOLDFISH: PHOTOGRAPHS[GOLDFISH], SAW: PHOTOGRAPHS[SAW]}),
    "another photograph under the name": zipped(PHOTOGRAPHS | {SAW: jpeg(9)}),
    "same size, other content": zipped(PHOTOGRAPHS | {SAW: bytes(len(PHOTOGRAPHS[SAW]))}),
    "other photographs": zipped({"n01443537_9_goldfish.jpg": jpeg(9)}),
    "zip bomb": zip_bomb(),
}


@pytest.mark.parametrize("fault", BAD_ARCHIVES)
def test_a_bad_archive_is_followed_by_the_next_and_alone_counts_as_nothing(server, mirrors, cache, manifest, fault):
    server.answers["/first.zip"] = good(BAD_ARCHIVES[fault])
    dataset = data.MicroImageNet()
    assert dataset.source.startswith("6 sample photographs from installed packages. MicroImageNet could not be down")
    assert mirrors[0] in dataset.source and "\n" not in dataset.source
    assert files_in(cache) == set()
    server.answers["/second.zip"] = good(ARCHIVE)
    expect_both_photographs(data.MicroImageNet())


LITTLE_MEMORY = """
import psutil, resource
memory = psutil.Process().memory_info()
limit = getattr(memory, "data", memory.vms) + 2**26  # bytes
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
"""


@pytest.mark.parametrize("method", [ZIP_BZIP2, ZIP_LZMA])
def test_no_method_of_compression_makes_a_zip_bomb(manifest, tmp_path, method):
    path = tmp_path / "bomb.zip"
    with ZipFile(path, "w", method) as file:
        file.writestr(PERSON, bytes(150_000_000))
        file.getinfo(PERSON).file_size = len(PHOTOGRAPHS[PERSON])  # it says
    for read in (
        f"data._unpack(data.Path({str(path)!r}))",
        f"data._Zipped({str(path)!r}, {PERSON!r}, '').open().read(9)",
    ):
        said = start(f"{LITTLE_MEMORY}try: {read}\nexcept Exception as error: print(error)", manifest).communicate()[0]
        assert "another method than deflate" in said


def test_nothing_but_the_named_photographs_is_written(server, mirrors, cache, manifest, tmp_path):
    archive = io.BytesIO()
    with ZipFile(archive, "w") as zip_file:
        zip_file.writestr("../../evil.txt", "evil")
        zip_file.writestr("/tmp/evil.txt", "evil")
        link = ZipInfo("evil_link")
        link.external_attr = 0o120777 << 16
        zip_file.writestr(link, "/etc/passwd")
        for folder, (name, content) in zip(["../../", "/tmp/", "C:\\evil\\..\\/"], PHOTOGRAPHS.items(), strict=True):
            zip_file.writestr(folder + name, content)
            zip_file.writestr(f"thumbnails/{name}", b"small")
    server.answers["/first.zip"] = good(archive.getvalue())
    expect_both_photographs(data.MicroImageNet())
    assert files_in(tmp_path) - {"box/cache/.lock", "manifest.csv"} == {
        f"box/cache/MicroImageNet/{name}" for name in PHOTOGRAPHS
    }
    assert not any(Path("/tmp", name).exists() for name in ["evil.txt", *PHOTOGRAPHS])


def test_two_processes_at_once_share_one_download(server, mirrors, cache, manifest):
    def answer(handler) -> None:
        wait_until(lambda: server.requests.count("HEAD /first.zip") == 2)  # until both are about to download
        good(ARCHIVE)(handler)

    server.answers["/first.zip"] = lambda handler: handler.command == "GET" and answer(handler)
    classes = "data.imagenet_classes = lambda: [data.Label(1, '', 'n01443537'), data.Label(491, '', 'n03000684')]\n"
    processes = [start(classes + "data.MicroImageNet()[1]", manifest) for _ in range(2)]
    there = "MicroImageNet: 2 photographs of 2 classes, from the cache.\n"
    waiting = f"Another process is downloading into {cache}: waiting for it.\n"
    assert sorted(process.communicate()[0] for process in processes) == sorted([there, waiting + there])
    assert server.downloads("/first.zip") == 1
    assert files_in(cache) == {f"MicroImageNet/{name}" for name in PHOTOGRAPHS}


def test_who_waits_too_long_for_another_process_leaves_its_download_alone(mirrors, cache, monkeypatch, capsys):
    cache.mkdir(parents=True)
    (cache / ".cut-0-file").write_bytes(CONTENT[:1000])
    monkeypatch.setattr(data, "LOCK_SECONDS", 0.2)
    with FileLock(cache / ".lock"), pytest.raises(data.DownloadError, match="file could not be fetched: another proc"):
        data.fetch("file", mirrors, SHA256)
    assert (cache / ".cut-0-file").read_bytes() == CONTENT[:1000]
    assert capsys.readouterr().out == f"Another process is downloading into {cache}: waiting for it.\n"


def test_who_may_not_open_the_lock_leaves_the_download_of_another_alone(mirrors, cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / ".cut-0-file").write_bytes(CONTENT[:1000])

    def refuse(*_, **__) -> None:  # as it is where another user made the lock; root may open it all the same
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(data.FileLock, "acquire", refuse)
    with pytest.raises(data.DownloadError, match="Permission denied"):
        data.fetch("file", mirrors, SHA256)
    assert (cache / ".cut-0-file").read_bytes() == CONTENT[:1000]


def test_a_kill_while_unpacking_leaves_nothing_that_counts(server, mirrors, cache, manifest):
    server.answers["/first.zip"] = good(ARCHIVE)
    stop = "data.imagenet_classes = list\ndata.pooch.file_hash = lambda path: data.time.sleep(60)\n"
    process = start(stop + "data.MicroImageNet()", manifest)
    wait_until(lambda: list(cache.glob(f".part-*/unpacked/{PERSON}")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache / "MicroImageNet").exists()
    expect_both_photographs(data.MicroImageNet())
    assert files_in(cache) == {f"MicroImageNet/{name}" for name in PHOTOGRAPHS}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_damaged_photographs_are_fetched_anew_or_reported(server, mirrors, cache, manifest, monkeypatch, damage):
    server.answers["/first.zip"] = good(ARCHIVE)
    data.MicroImageNet()
    damage(cache / "MicroImageNet" / SAW)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    data._unreachable.cache_clear()
    assert data.MicroImageNet().source == (
        "6 sample photographs from installed packages. MicroImageNet is damaged in the cache, and COURSE_OFFLINE=1 "
        "forbids the network; without it, `make prefetch` fetches it."
    )
    monkeypatch.delenv("COURSE_OFFLINE")
    data._unreachable.cache_clear()
    expect_both_photographs(data.MicroImageNet())


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_the_place_of_the_photographs_gives_way(server, mirrors, cache, manifest, make):
    server.answers["/first.zip"] = good(ARCHIVE)
    cache.mkdir(parents=True, exist_ok=True)
    make(cache / "MicroImageNet")
    expect_both_photographs(data.MicroImageNet())


# MicroImageNet, on disk


def test_photographs_in_a_folder_or_zip_may_be_scaled_and_may_be_few(manifest, tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / SAW).write_bytes(jpeg(7))
    (tmp_path / "photographs.zip").write_bytes(zipped({f"deep/{SAW}": jpeg(7), "n01443537_9_goldfish.jpg": b""}))
    for name in ["deep", "photographs.zip"]:
        monkeypatch.setenv("COURSE_DATA", str(tmp_path / name))
        dataset = data.MicroImageNet()
        assert dataset.source == "MicroImageNet: 1 photographs of 1 classes, from COURSE_DATA."
        assert [path.name for path in dataset.paths] == [SAW]
        assert dataset[0][0].tobytes() == Image.open(io.BytesIO(jpeg(7))).convert("RGB").tobytes()


def test_relative_paths_begin_at_the_course_in_whatever_folder_a_kernel_runs(manifest, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / SAW).write_bytes(jpeg(7))
    monkeypatch.setattr(data, "DATA", tmp_path / "data")
    monkeypatch.setenv("COURSE_DATA", "mine")
    monkeypatch.setenv("COURSE_CACHE", "box")
    assert [path.name for path in data.MicroImageNet().paths] == [SAW]
    assert data.cache_dir() == tmp_path / "box"


def test_course_data_without_photographs_is_an_error_that_says_so(manifest, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "other.zip").write_bytes(zipped({"n00007846_1_person.jpg": b"", "readme.txt": b""}))
    for name in ["nowhere", "empty", "text.zip", "other.zip"]:
        monkeypatch.setenv("COURSE_DATA", str(tmp_path / name))
        with pytest.raises(FileNotFoundError, match=f"{name} is no folder or zip with photographs of Micro"):
            data.MicroImageNet()


def test_the_manifest_of_the_course_names_750_photographs_of_150_classes_in_order(tmp_path, monkeypatch):
    names = [line.split(",")[0] for line in data.MANIFEST.read_text().splitlines()[1:]]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    dataset = data.MicroImageNet()
    assert dataset.source == "MicroImageNet: 750 photographs of 150 classes, from COURSE_DATA."
    assert len(names) == 1000 and len(dataset) == 750
    assert [path.name for path in dataset.paths] == sorted(path.name for path in dataset.paths)
    assert dataset.labels[0].name == "goldfish" and dataset.labels[200].name == "chain saw"
    assert dataset.labels[-1].name == "burrito"


def test_all_real_photographs_can_be_read(monkeypatch):
    if not REAL_PHOTOGRAPHS.exists():
        pytest.skip("the scaled photographs of MicroImageNet are not on this machine")
    monkeypatch.setenv("COURSE_DATA", str(REAL_PHOTOGRAPHS))
    dataset = data.MicroImageNet()
    assert len(dataset) == 750
    for (image, index), path, label in zip(dataset, dataset.paths, dataset.labels, strict=True):
        assert image.mode == "RGB" and min(image.size) >= 20 and np.asarray(image).std() > 1, path
        assert path.name.startswith(label.wnid) and index == label.index


# Images


def gradient(mode: str) -> Image.Image:
    gray = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40, 1)))
    if mode == "I;16":
        return Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    return gray.convert("RGB").quantize(64) if mode == "P" else gray.convert(mode)


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(content: bytes, tmp_path: Path, monkeypatch) -> Image.Image:
    (tmp_path / SAW).write_bytes(content)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    image, index = data.MicroImageNet()[0]
    assert image.mode == "RGB" and index == 491
    return image


@pytest.mark.parametrize(
    ("mode", "format", "tolerance"),
    [
        ("L", "JPEG", 3),
        ("CMYK", "JPEG", 6),
        ("RGB", "PNG", 0),
        ("L", "PNG", 0),
        ("LA", "PNG", 0),
        ("P", "PNG", 3),
        ("RGBA", "PNG", 0),
        ("I;16", "PNG", 1),
        ("1", "PNG", 255),
    ],
)
def test_images_of_every_mode_become_rgb_and_look_the_same(manifest, tmp_path, monkeypatch, mode, format, tolerance):
    image = read(saved(gradient(mode), format), tmp_path, monkeypatch)
    expected = np.tile(np.arange(0, 256, 4)[:, None], (40, 1, 3))
    assert image.size == (64, 40)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= tolerance
    assert np.asarray(image)[:, -8:].mean() - np.asarray(image)[:, :8].mean() > 180


def test_what_is_transparent_becomes_white(manifest, tmp_path, monkeypatch):
    red = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 20, 40))
    for content in [saved(red, "PNG"), saved(red.convert("P"), "PNG", transparency=red.convert("P").getpixel((30, 0)))]:
        image = read(content, tmp_path, monkeypatch)
        assert image.getpixel((39, 0)) == (255, 255, 255)
    assert read(saved(red, "PNG"), tmp_path, monkeypatch).getpixel((0, 0)) == (255, 0, 0)


def test_the_rotation_that_a_camera_noted_is_applied(manifest, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    image = read(saved(gradient("L"), "JPEG", exif=exif), tmp_path, monkeypatch)
    assert image.size == (40, 64)
    assert image.getpixel((20, 2))[0] < 20 and image.getpixel((20, 61))[0] > 235


@pytest.mark.parametrize("content", [jpeg(0)[:-300], b"", b"no image", saved(gradient("L"), "PNG")[:-40]])
def test_a_damaged_image_is_named(manifest, tmp_path, monkeypatch, content):
    with pytest.raises(RuntimeError, match=rf"{SAW} is not a readable image"):
        read(content, tmp_path, monkeypatch)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that says it is `width` by `height` pixels."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def spoil(content: bytes, chance: random.Random) -> bytes:
    """Damage a file as broken disks, cut downloads and attackers do."""
    content = bytearray(content)
    at, size = chance.randrange(len(content)), chance.choice([1, 2, 4, 64])
    match chance.randrange(5):
        case 0:
            del content[at:]
        case 1:
            del content[at : at + size]
        case 2:
            content[at:at] = chance.randbytes(size)
        case 3:  # in the header, where sizes and modes stand
            at = chance.randrange(min(64, len(content)))
            content[at : at + size] = chance.choice([b"\0", b"\xff", b"\x7f"]) * size
        case 4:
            for at in chance.sample(range(len(content)), min(len(content), 20)):
                content[at] ^= 1 << chance.randrange(8)
    return bytes(content)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it finds in damaged files
def test_of_1000_damaged_files_each_is_read_or_named_within_a_moment(manifest, tmp_path, monkeypatch):
    (tmp_path / SAW).write_bytes(PHOTOGRAPHS[SAW])
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    dataset, chance, read, refused = data.MicroImageNet(), random.Random(0), 0, 0
    whole = [saved(gradient("RGB"), name) for name in data.FORMATS]
    process, peak = psutil.Process(), []
    monkeypatch.setattr(Image.Image, "convert", watched(Image.Image.convert, process, peak))
    memory = process.memory_info().rss
    for number in range(1000):
        (tmp_path / SAW).write_bytes(spoil(whole[number % len(whole)], chance))
        begin = time.process_time()
        try:
            image, index = dataset[0]
            assert (image.mode, index) == ("RGB", 491)
            read += 1
        except RuntimeError as error:
            assert str(error).startswith(f"{tmp_path / SAW} is not a readable image (")
            refused += 1
        assert time.process_time() - begin < 10
    assert read > 100 and refused > 100
    assert max(peak) - memory < 2**30


def watched(function, process: psutil.Process, peak: list[int]):
    """Like `function`, which notes the memory of the process each time: before pictures are freed again."""

    def watch(*arguments, **options):
        result = function(*arguments, **options)
        peak.append(process.memory_info().rss)
        return result

    return watch


@pytest.mark.filterwarnings("ignore")  # of Pillow, which at first only warns
@pytest.mark.parametrize("size", [(13_000, 13_000), (50_000, 50_000), (2**31 - 1, 1)])
def test_a_small_file_that_says_it_is_huge_is_refused_before_memory_is_taken(manifest, tmp_path, monkeypatch, size):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("its pixels are being read"))
    with pytest.raises(RuntimeError, match=rf"{SAW} is not a readable image \(.*(too many pixels|decompression bomb)"):
        read(bomb(*size), tmp_path, monkeypatch)


def test_an_image_that_would_start_another_program_is_refused(manifest, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "gs"  # Ghostscript, by which Pillow reads EPS
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # has not looked for it yet
    with pytest.raises(RuntimeError, match=f"{SAW} is not a readable image"):
        read(saved(gradient("RGB"), "EPS"), tmp_path, monkeypatch)
    assert not (tmp_path / "started").exists()


def test_a_damaged_image_in_a_zip_is_named(manifest, tmp_path, monkeypatch):
    (tmp_path / "photographs.zip").write_bytes(damaged(ARCHIVE, ARCHIVE.index(PHOTOGRAPHS[SAW]) + 99))
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "photographs.zip"))
    with pytest.raises(RuntimeError, match=rf"photographs.zip/.*{SAW} is not a readable image"):
        data.MicroImageNet()[1]


def test_a_damaged_zip_file_is_no_folder_or_zip_with_photographs(manifest, tmp_path, monkeypatch):
    path = tmp_path / "photographs.zip"
    path.write_bytes(ARCHIVE.replace(b"PK\1\2", b"PK\0\0", 1))
    monkeypatch.setenv("COURSE_DATA", str(path))
    with pytest.raises(FileNotFoundError, match="is no folder or zip with photographs"):
        data.MicroImageNet()


def test_indices_are_those_of_a_list(manifest, tmp_path, monkeypatch):
    (tmp_path / "photographs.zip").write_bytes(ARCHIVE)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "photographs.zip"))
    dataset = data.MicroImageNet()
    assert len(dataset) == 2 and dataset[-1][1] == 491 and dataset[torch.tensor(0)][1] == 1
    for index in (2, -3):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(TypeError):
        dataset[0:2]


def test_a_zip_file_can_be_read_by_the_workers_of_a_data_loader(manifest, tmp_path, monkeypatch):
    (tmp_path / "photographs.zip").write_bytes(ARCHIVE)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "photographs.zip"))
    dataset = data.MicroImageNet()
    loader = DataLoader(dataset, num_workers=1, collate_fn=list, multiprocessing_context="fork")
    assert [batch[0][1] for batch in loader] == [1, 491]
    assert pickle.loads(pickle.dumps(dataset))[1][1] == 491  # as where workers are spawned


# Sample photographs, digits


def test_without_network_there_are_six_sample_photographs_and_one_line_the_same_everywhere(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    dataset = data.MicroImageNet()
    assert capsys.readouterr().out == (
        "6 sample photographs from installed packages. MicroImageNet is not in the cache, and COURSE_OFFLINE=1 "
        "forbids the network; without it, `make prefetch` fetches it.\n"
    )
    assert [path.name for path in dataset.paths] == (
        ["chelsea.png", "coffee.png", "rocket.jpg", "grace_hopper.jpg", "camera.png", "china.jpg"]
    )
    classes = data.imagenet_classes()
    assert [[classes[i].name for i in sorted(accepted)] for accepted in dataset.accepted] == [
        ["tabby", "tiger cat", "Egyptian cat"],
        ["espresso", "cup"],
        ["missile", "projectile"],
        ["military uniform"],
        ["tripod"],
        ["palace"],
    ]
    assert [label.wnid for label in dataset.labels[:4]] == ["n02123045", "n07920052", "n04008634", "n03763968"]
    for (image, index), label, accepted in zip(dataset, dataset.labels, dataset.accepted, strict=True):
        assert image.mode == "RGB" and min(image.size) >= 300 and index == label.index and index in accepted


def test_a_sample_that_no_package_has_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    (tmp_path / "remains_of_a_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    lacking = [("no_such_package", "a.png", (0,)), ("skimage", "data/no_such_file.png", (1,))]
    lacking += [("remains_of_a_package", "a.png", (2,))]
    monkeypatch.setattr(data, "SAMPLES", lacking + data.SAMPLES[:1])
    assert [path.name for path in data.MicroImageNet().paths] == ["chelsea.png"]


def test_digits_are_split_the_same_each_time_with_each_class_in_both_parts():
    x_train, y_train, x_test, y_test = data.digits()
    assert x_train.shape == (1297, 1, 8, 8) and x_test.shape == (500, 1, 8, 8)
    assert x_train.dtype == x_test.dtype == torch.float32 and y_train.dtype == y_test.dtype == torch.int64
    assert x_train.min() == x_test.min() == 0 and x_train.max() == x_test.max() == 1
    share = torch.bincount(y_test) / torch.bincount(torch.cat([y_train, y_test]))
    assert len(share) == 10 and (share - 500 / 1797).abs().max() < 0.01
    assert y_test[:10].tolist() == [4, 8, 8, 3, 9, 0, 6, 3, 9, 8]  # what another split would not give


def test_no_digit_is_in_both_parts():
    x_train, _, x_test, _ = data.digits()
    assert len(torch.cat([x_train, x_test]).flatten(1).unique(dim=0)) == 1797
