"""What several test files need: the notebooks, and the course as a git repository that can be cloned."""

import inspect
import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from tools.run_notebooks import lectures

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = lectures()
# Of the user's git settings none counts here, and none of a git command that runs the tests from a hook.
GIT = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}


def packages_distributions() -> dict[str, list[str]]:
    """Names of the installed packages that hold each module, as importlib.metadata tells them from Python 3.11 on."""
    found: dict[str, list[str]] = {}
    for distribution in distributions():
        files = {file.parts[0] if len(file.parts) > 1 else file.name for file in distribution.files or ()}
        for module in filter(None, (inspect.getmodulename(file) or file for file in files)):
            found.setdefault(module, []).append(distribution.metadata["Name"])
    return found


def publish(repository: Path, revision: str) -> None:
    """Make a bare repository whose branch `revision` holds the course's files as they are now.

    The course's own repository, if there is one, is neither needed nor touched.
    """

    def git(*arguments: str) -> None:
        command = ["git", f"--git-dir={repository}", f"--work-tree={ROOT}", "-c", "core.compression=0", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=GIT)

    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True, env=GIT)
    git("symbolic-ref", "HEAD", f"refs/heads/{revision}")
    git("add", "--all")
    git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", "The course")
    git("-c", "pack.window=0", "repack", "-a", "-d", "--quiet")  # once, instead of with every clone
