"""What the notebooks' setup cell does on Colab: it adds the packages that Colab lacks and keeps those that it has."""

import re
import subprocess
import sys
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

COURSE = Path(__file__).resolve().parent.parent
LOCAL_ONLY = "# Not on Colab"  # this comment in requirements.txt heads what only a laptop needs


def prepare() -> None:
    """Complete a Colab session and say in one line what is there; elsewhere, do nothing."""
    if "google.colab" not in sys.modules:
        return
    added = install_missing()
    import torch

    git = ["git", "-C", str(COURSE), "describe", "--tags", "--always"]
    revision = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (see Runtime > Change runtime type)"
    print(f"Course {revision} in {COURSE}; installed: {', '.join(added) or 'nothing, all is there'}; GPU: {gpu}")


def install_missing() -> list[str]:
    """Install the packages of requirements.txt that cannot be found, and change none that can.

    pip gets constraints.txt with the version of every package that is already there in place of the course's own
    pin, so that adding timm cannot exchange Colab's torch. If the other pins do not fit those, pip chooses.

    Returns
    -------
    list of str
        Names of the packages that were missing; if there are none, pip is not started.

    Raises
    ------
    RuntimeError
        If pip fails; the message ends with pip's own.
    """
    wanted = (COURSE / "requirements.txt").read_text(encoding="utf-8").split(LOCAL_ONLY)[0]
    missing = {name: line for name, line in _lines(wanted) if not _installed(name)}
    if missing:
        pins = _lines((COURSE / "constraints.txt").read_text(encoding="utf-8"))
        there = [f"{name}=={_installed(name)}" for name, _ in pins if _installed(name)]
        pinned = [line for name, line in pins if not _installed(name)]
        for kept in (there + pinned, there):  # years later, a pin may ask for more than Colab's packages can give
            pip = _pip_install(list(missing.values()), kept)
            if not pip.returncode or "conflict" not in pip.stderr:  # pip warns of old conflicts where it succeeds, too
                break
        if pip.returncode:
            raise RuntimeError(f"pip could not install {', '.join(missing)}; run this cell again. {pip.stderr}")
        invalidate_caches()
    return list(missing)


def _pip_install(requirements: list[str], constraints: list[str]) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(file), *requirements]
        return subprocess.run(command, capture_output=True, text=True)


def _lines(text: str) -> list[tuple[str, str]]:
    """Package name and whole line of each requirement."""
    return [(line[0], line.string) for line in map(re.compile(r"\w[\w.-]*").match, text.splitlines()) if line]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
