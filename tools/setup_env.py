"""Make `.venv` with the packages of requirements.txt at the versions of constraints.txt.

Every make target calls this first. Where all is there, it returns at once and calls no pip. Where an earlier call
was interrupted or .venv is broken, it builds .venv anew. It uses the standard library only, and starts on any
Python from 3.6 on, to find a better one or to say what is missing.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin/python"
LISTS = ("requirements.txt", "requirements-train.txt", "constraints.txt")
STAMP = VENV / "complete"  # written last: the Python version, and a hash of what was installed
SUPPORTED = ["3.14", "3.13", "3.12", "3.11", "3.10"]
NEEDED_SPACE = 3 << 30  # bytes, for the packages and what pip keeps in its cache; without CUDA's libraries
DISK_FULL = "The disk is full: .venv, pip's cache and temporary files need 3 GB in all, 10 GB with CUDA."


def say(text):
    print(text, flush=True)


def ask(python, code):
    """What another Python prints when it runs `code`; None where it fails."""
    try:
        output = subprocess.check_output([str(python), "-I", "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.decode().strip()


def find_python():
    """The Python to make .venv with, and its version: the one that it has; else what runs this; else one on the PATH.

    What is there stays, because a lecture hall may have no network to make .venv anew with another Python.
    """
    this = "{}.{}".format(*sys.version_info)
    for name in [str(VENV_PYTHON), sys.executable, *("python" + version for version in SUPPORTED)]:
        python = shutil.which(name)
        version = python and ask(python, "import sys; print('{}.{}'.format(*sys.version_info))")
        if version in SUPPORTED:
            if version != this:
                say(f"{sys.executable} is Python {this}: using {python}, Python {version}.")
            return python, version
    sys.exit(
        f"{sys.executable} is Python {this}, and the course needs 3.10 to 3.14: install one of these, "
        "or name it, as in: make lab PYTHON=/path/to/python3.12"
    )


def is_ready(stamp):
    try:
        return STAMP.read_text() == stamp and ask(VENV_PYTHON, "import pip") is not None
    except OSError:
        return False


@contextlib.contextmanager
def one_at_a_time():
    """Hold a lock, or wait for it. The system takes it from processes that have ended, however they ended."""
    with open(str(ROOT / ".venv.lock"), "w") as lock:
        # pip inherits the lock: if this process alone is killed, the next call waits for pip, which goes on writing.
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another call is installing into this .venv: waiting until it ends.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command):
    """Run a command that shows its progress itself, and exit with one sentence where it fails."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=str(ROOT),
        env=dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0"),
        stderr=subprocess.PIPE,
        close_fds=False,
    )
    errors = b""
    try:
        for line in process.stderr:
            errors += line
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
        process.wait()
    finally:
        process.kill()  # without effect where it has ended by itself
    if process.returncode == -signal.SIGKILL:
        sys.exit("The system stopped pip: is the memory full? Close other programs, and give the command again.")
    if process.returncode < 0:
        raise KeyboardInterrupt
    if process.returncode:
        if any(mark in errors for mark in (b"Errno 28", b"No space left", b"quota exceeded")):
            sys.exit(DISK_FULL)
        sys.exit(
            "The packages could not be installed, for the reason above. Is there a network? Give the command again."
        )


def install(python, version, stamp):
    # Packages can be added to a complete .venv. Any other, also one that an interruption has torn, is made anew.
    old = STAMP.read_text() if STAMP.exists() else ""
    complete = old.startswith(version) and ask(VENV_PYTHON, "import pip") is not None
    with contextlib.suppress(OSError):
        STAMP.unlink()
    say(f"Installing the course's packages into .venv, with Python {version}. This takes some minutes, once.")
    if not complete:
        if ask(python, "import ensurepip, venv") is None:
            sys.exit(
                f"{python} lacks the modules venv and ensurepip: install them (on Debian and Ubuntu: "
                f"apt install python{version}-venv), and give the command again."
            )
        if version == "3.10":  # it would make the Python of .venv, if it is that one, a link to itself
            python = os.path.realpath(python)
        run(python, "-I", "-m", "venv", "--clear", "--without-pip", VENV.resolve())
        if shutil.disk_usage(str(VENV)).free < NEEDED_SPACE:
            sys.exit(DISK_FULL)
        run(VENV_PYTHON, "-I", "-m", "ensurepip", "--default-pip")
    if sys.platform == "linux" and not shutil.which("nvidia-smi") and "PIP_EXTRA_INDEX_URL" not in os.environ:
        say(
            "No NVIDIA GPU here. Unless pip's settings already name the CPU wheels, several GB are saved if you stop "
            "with Ctrl-C, and begin again with PIP_EXTRA_INDEX_URL set to the address that pytorch.org names for "
            "Linux, Pip, CPU."
        )
    try:
        run(VENV_PYTHON, "-I", "-m", "pip", "install", "-r", "requirements.txt", "-c", "constraints.txt")
    except SystemExit:
        if complete:
            STAMP.write_text(old)  # where pip fails (no network), it leaves the old packages
        raise
    os.sync()  # a power cut must not leave the stamp without the packages
    STAMP.write_text(stamp)


def main():
    python, version = find_python()
    contents = b"".join((ROOT / name).read_bytes() for name in LISTS)
    stamp = f"{version} {hashlib.sha256(contents).hexdigest()}"
    if not is_ready(stamp):
        with one_at_a_time():
            if not is_ready(stamp):  # the call that was waited for may have made it
                install(python, version, stamp)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted. Give the command again to start anew.")
    except OSError as error:
        sys.exit(DISK_FULL if error.errno == errno.ENOSPC else f"Cannot set up .venv: {error}")
