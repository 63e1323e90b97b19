"""Photographs, digits and class names for the course, and the downloads behind them."""

import csv
import errno
import operator
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import pooch
import requests
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

DATA = Path(__file__).resolve().parent.parent / "data"
MANIFEST = DATA / "microimagenet.csv"
MIRRORS = [
    "https://github.com/ajschumacher/imagen/archive/refs/heads/master.zip",
    "https://edunet.kea.su/repo/EduNet-web_dependencies/datasets/imagen.zip",
]
WEIGHT_HOSTS = ["https://download.pytorch.org", "https://huggingface.co"]
ONLINE_SECONDS = 5  # how long online() may take
LOCK_SECONDS = 600  # how long a process waits for another that is downloading
TIMEOUT = (5, 15)  # seconds to connect, and between two packets
GRACE_SECONDS, MIN_SPEED = 30, 20_000  # after the grace, a server that gave fewer bytes per second is given up

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]  # for EPS, Pillow starts another program
MAX_PIXELS = 50_000_000  # which take up to 0.8 GB, with copies; Pillow itself refuses only above 179 million

# Photographs in packages that the course needs anyway, with the classes that count as correct. The first is the
# label; for the first four photographs it is one of the 200 classes of the micro networks.
SAMPLES = [
    ("skimage", "data/chelsea.png", (281, 282, 285)),  # a striped cat: tabby, tiger cat, Egyptian cat
    ("skimage", "data/coffee.png", (967, 968)),  # espresso, cup
    ("skimage", "data/rocket.jpg", (744, 657)),  # projectile, missile
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (652,)),  # military uniform
    ("skimage", "data/camera.png", (872,)),  # tripod
    ("sklearn", "datasets/images/china.jpg", (698,)),  # palace: the Summer Palace in Beijing
]


class DownloadError(RuntimeError):
    """A file is not in the cache and cannot be downloaded."""


class Label(NamedTuple):
    """A class of ImageNet: its index in a network's output, its name, its WordNet id."""

    index: int
    name: str
    wnid: str


@cache
def imagenet_classes() -> list[Label]:
    """Return the 1,000 classes of ILSVRC by index. The names are torchvision's, of which no two are the same."""
    from timm.data import ImageNetInfo
    from torchvision.models import AlexNet_Weights

    names, wnids = AlexNet_Weights.IMAGENET1K_V1.meta["categories"], ImageNetInfo().label_names()
    return [Label(index, *label) for index, label in enumerate(zip(names, wnids, strict=True))]


def cache_dir() -> Path:
    """Return the folder for downloads: $COURSE_CACHE, seen from the course, else data/cache. It need not exist yet."""
    return DATA.parent / Path(os.environ.get("COURSE_CACHE") or DATA / "cache").expanduser()


def online() -> bool:
    """Tell whether a server of files answers within 5 s. Asked once per process, never under COURSE_OFFLINE=1."""
    return os.environ.get("COURSE_OFFLINE") != "1" and not _unreachable()


@cache
def _unreachable() -> str:
    """Say why no server can be reached, such as ``SSLError``; if one can, say nothing."""
    urls = _with_course_mirror("imagen.zip", MIRRORS + WEIGHT_HOSTS)
    answers = [_start(requests.head, url, timeout=ONLINE_SECONDS) for url in urls]
    try:
        if any(answer.exception() is None for answer in futures.as_completed(answers, ONLINE_SECONDS)):
            return ""
    except futures.TimeoutError:
        pass
    errors = [answer.exception() for answer in answers if answer.done()]
    if None in errors:  # just now
        return ""
    return ", ".join(sorted({type(error).__name__ for error in errors})) or f"no answer in {ONLINE_SECONDS} s"


def _start(function: Callable, *args, **kwargs) -> futures.Future:
    """Call `function` in a thread that can be abandoned: time-outs end neither look-ups of names nor slow drips."""
    future = futures.Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def fetch(name: str, urls: list[str], sha256: str) -> Path:
    """Return the path of a file in the cache; if it is missing or damaged, download it.

    Parameters
    ----------
    name : str
        Path inside the cache.
    urls : list of str
        Where to get it, tried in order after $COURSE_MIRROR/<name>.
    sha256 : str
        The SHA-256 of the file in lower-case hexadecimal, or how it begins.

    Raises
    ------
    DownloadError
        If there is no network, no server gives the right file, or the cache cannot be read or written.
    """

    def is_good(path: Path) -> bool:
        return path.is_file() and pooch.file_hash(path).startswith(sha256)

    return _obtain(cache_dir() / name, _with_course_mirror(name, urls), is_good)


def _with_course_mirror(name: str, urls: list[str]) -> list[str]:
    mirror = os.environ.get("COURSE_MIRROR")
    return [f"{mirror.rstrip('/')}/{name}", *urls] if mirror else urls


def _obtain(target: Path, urls: list[str], is_good: Callable, prepare: Callable = Path) -> Path:
    """Return `target`. If it is not good already, it becomes what `prepare` makes of the first good download."""
    try:
        if is_good(target):
            return target
    except OSError as error:
        reason = error.strerror or error
        raise DownloadError(f"{target} cannot be read ({reason}). Make it readable, or set COURSE_CACHE.") from error
    if not online():
        state = "damaged in" if target.exists() else "not in"
        if os.environ.get("COURSE_OFFLINE") == "1":
            reason = "COURSE_OFFLINE=1 forbids the network; without it, `make prefetch` fetches it"
        else:
            mirror = os.environ.get("COURSE_MIRROR")
            nor = f", nor does COURSE_MIRROR={mirror} answer" if mirror else ""
            todo = "once there is, restart the kernel, or run `make prefetch`"
            reason = f"there is no network{nor} ({_unreachable()}); {todo}"
        raise DownloadError(f"{target.name} is {state} the cache, and {reason}.")
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock(target.parent):
            if is_good(target):  # another process was faster
                return target
            for leftover in target.parent.glob(".part-*"):  # of a dead process: a living one would hold the lock
                shutil.rmtree(leftover)
            with TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
                for url in urls:
                    try:
                        new = prepare(_download(url, target).replace(Path(folder, target.name)))
                        if not is_good(new):
                            raise DownloadError("other content than expected")
                        if target.is_symlink() or (target.is_file() and new.is_dir()):
                            target.unlink()
                        shutil.rmtree(target, ignore_errors=True)  # a folder can replace only an empty one
                        _forget_cut(target)
                        return new.replace(target)
                    except requests.RequestException as error:
                        reasons.append(f"{url}: {getattr(error.response, 'status_code', type(error).__name__)}")
                    except (RuntimeError, ValueError, BadZipFile, EOFError, zlib.error) as error:  # zipfile's, too
                        reasons.append(f"{url}: {error}")
            if any(_cut(target)):
                reasons.append("what has come is kept, and the next try goes on from there")
    except Timeout:  # what has come belongs to the process that holds the lock
        busy = f"another process is downloading into {target.parent}. Wait for it, then try again"
        raise DownloadError(f"{target.name} could not be fetched: {busy}.") from None
    except (OSError, NotImplementedError) as error:  # the latter is older filelock's, where a file system has no locks
        if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # it would only fill the disk
            _forget_cut(target)
        reason = getattr(error, "strerror", "") or error
        raise DownloadError(f"The cache {target.parent} cannot be written ({reason}). Set COURSE_CACHE.") from error
    raise DownloadError(f"{target.name} could not be downloaded ({'; '.join(reasons)}).")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process at a time write to `folder`; the others say that they wait."""
    file = FileLock(folder / ".lock", timeout=LOCK_SECONDS)
    try:
        file.acquire(timeout=0)
    except Timeout:
        print(f"Another process is downloading into {folder}: waiting for it.")
        file.acquire()
    try:
        yield
    finally:
        file.release()


def _cut(target: Path) -> Iterator[Path]:
    """The beginnings of `target` that interrupted downloads left, one for each address."""
    return target.parent.glob(f".cut-*-{target.name}")


def _forget_cut(target: Path) -> None:
    for beginning in _cut(target):
        with suppress(OSError):
            beginning.unlink()


def _download(url: str, target: Path) -> Path:
    """Return the file in which all of `url` now is. If it is interrupted, the next call fetches only the rest."""
    path = target.with_name(f".cut-{zlib.crc32(url.encode()):08x}-{target.name}")
    stop, received = Event(), []
    download, start = _start(_receive, url, path, stop, received), time.monotonic()
    try:
        while not download.done():
            if (time.monotonic() - start - GRACE_SECONDS) * MIN_SPEED > sum(received):
                raise DownloadError("too slow")
            time.sleep(0.05)
        download.result()
    finally:
        stop.set()  # a thread that was given up, or Ctrl-C left alone, writes no more
    return path


def _receive(url: str, path: Path, stop: Event, received: list[int]) -> None:
    """Write to `path` what `url` gives, from where `path` ends if the server can, until `stop` is set."""
    size = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = requests.get(url, headers=headers, timeout=TIMEOUT, stream=True)
    except requests.RequestException:
        raise
    except OSError as error:  # not of the cache: the file of certificates is missing, say
        raise DownloadError(str(error)) from error
    with response:
        if size and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there
        response.raise_for_status()
        goes_on = response.status_code == requests.codes.partial_content
        chunks = response.iter_content(2**16)
        first = next(chunks, b"")
        if stop.is_set():  # another call may be writing to the file, which opening it would empty
            return
        is_page = first[:64].lstrip().lower().startswith((b"<!doctype html", b"<html"))
        if not goes_on and (is_page or "text/html" in response.headers.get("Content-Type", "")):
            raise DownloadError("a web page instead of the file")
        start = size if goes_on else 0
        total = start + int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(total=total, initial=start, desc=path.name.split("-", 2)[2], unit="B", unit_scale=True, leave=False)
        with path.open("ab" if goes_on else "wb") as file, bar:
            for chunk in chain([first], chunks):
                if stop.is_set():
                    return
                file.write(chunk)
                file.flush()  # else it would be written on closing, when another call may already have gone on
                received.append(len(chunk))
                bar.update(len(chunk))


def _manifest() -> dict[str, tuple[int, str]]:
    with MANIFEST.open(newline="") as file:
        return {row["file"]: (int(row["bytes"]), row["sha256"]) for row in csv.DictReader(file)}


def _is_whole(folder: Path) -> bool:
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()} if folder.is_dir() else {}
    return all(sizes.get(name) == size for name, (size, _) in _manifest().items())


def _unpack(archive: Path) -> Path:
    """Write the photographs of the manifest, and no other file, to a folder beside the archive."""
    folder = archive.with_name("unpacked")
    folder.mkdir(exist_ok=True)
    with ZipFile(archive) as zip_file:
        entries = {(PurePosixPath(entry.filename).name, entry.file_size): entry for entry in zip_file.infolist()}
        for name, (size, sha256) in _manifest().items():
            if (name, size) not in entries:
                raise DownloadError(f"{name} is missing or has another size")
            try:
                with _open_entry(zip_file, entries[name, size]) as file:
                    content = file.read(size)
            except Exception as error:  # zipfile's and zlib's
                raise DownloadError(f"{name} cannot be unpacked ({error})") from error
            (folder / name).write_bytes(content)
            if pooch.file_hash(folder / name) != sha256:
                raise DownloadError(f"{name} has other content")
    return folder


def _open_entry(zip_file: ZipFile, entry: ZipInfo):
    """Open a file in a zip. Only deflate is read piece by piece; of the others, 2 kB can become gigabytes at once."""
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise BadZipFile(f"{entry.filename} is compressed by another method than deflate")
    return zip_file.open(entry)


class _Zipped(NamedTuple):
    """A file in a zip file, which is opened anew each time, so that the workers of a data loader can use it."""

    archive: Path
    entry: str
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.entry}"

    def open(self, mode: str = "rb"):
        zip_file = ZipFile(self.archive)
        return _open_entry(zip_file, zip_file.getinfo(self.entry))


class MicroImageNet(Dataset):
    """Photographs and their ImageNet classes: five for each of 150 classes, or else six samples.

    They come from the folder or zip file $COURSE_DATA if that is set, else from the cache, else they are downloaded
    (106 MB from https://github.com/ajschumacher/imagen, of which the ILSVRC classes are used), else from installed
    packages. Items are pairs of an RGB `PIL.Image.Image` and a class index.

    Attributes
    ----------
    paths : list of pathlib.Path
        Those inside a zip file are no paths, but have `name` and `open()`, too.
    labels : list of Label
    accepted : list of frozenset of int
        The indices of the classes that count as correct.
    source : str
        Where the photographs come from, in one line, which is also printed.

    Raises
    ------
    FileNotFoundError
        If $COURSE_DATA holds none of the photographs.
    RuntimeError
        If an item cannot be read as an image.
    """

    def __init__(self) -> None:
        classes = imagenet_classes()
        by_wnid = {label.wnid: label for label in classes}
        given, urls = os.environ.get("COURSE_DATA"), _with_course_mirror("imagen.zip", MIRRORS)
        try:
            source = given or _obtain(cache_dir() / "MicroImageNet", urls, _is_whole, _unpack)
            source = DATA.parent / Path(source).expanduser()
            files = sorted(source.rglob("*.jpg"))
            if is_zipfile(source):
                with suppress(BadZipFile, OSError), ZipFile(source) as zip_file:
                    files = [_Zipped(source, entry, PurePosixPath(entry).name) for entry in zip_file.namelist()]
            found = {file.name: file for file in files}
            self.paths = [found[name] for name in _manifest() if name in found and name.split("_")[0] in by_wnid]
            if not self.paths:
                raise FileNotFoundError(
                    f"COURSE_DATA={given} is no folder or zip with photographs of MicroImageNet: correct or unset it."
                )
            self.labels = [by_wnid[path.name.split("_")[0]] for path in self.paths]
            self.accepted = [frozenset([label.index]) for label in self.labels]
            self.source = f"MicroImageNet: {len(self.paths)} photographs of {len(set(self.labels))} classes, from "
            self.source += "COURSE_DATA." if given else "the cache."
        except DownloadError as error:
            self.paths, self.labels, self.accepted = [], [], []
            for package, file, accepted in SAMPLES:
                spec = find_spec(package)
                if spec and spec.origin and (path := Path(spec.origin).parent / file).is_file():
                    self.paths.append(path)
                    self.labels.append(classes[accepted[0]])
                    self.accepted.append(frozenset(accepted))
            self.source = f"{len(self.paths)} sample photographs from installed packages. {error}"
        print(self.source)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        index = operator.index(index)  # a slice is refused here
        path, label = self.paths[index], self.labels[index]
        try:
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} × {image.height} are too many pixels")
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I"):  # 16 bits per pixel
                    image = image.point(lambda value: value / 257)
                if image.has_transparency_data:  # shown on white
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                return image.convert("RGB"), label.index
        except Exception as error:  # Pillow and zipfile raise all sorts
            raise RuntimeError(f"{path} is not a readable image ({error}). Replace or delete it.") from error


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak, 1998) in a fixed, stratified split.

    Returns
    -------
    x_train, y_train, x_test, y_test : Tensor
        Images, float32 in [0, 1], (1297, 1, 8, 8) and (500, 1, 8, 8); labels, int64, (1297,) and (500,).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    train, test = train_test_split(range(len(y)), test_size=500, stratify=y, random_state=0)
    return x[train], y[train], x[test], y[test]
