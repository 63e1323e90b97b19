"""Pages in the Chromium or Chrome of this machine, for the tests of slides and website."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSER = next(filter(None, map(shutil.which, [*NAMES, MAC])), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="There is no Chromium or Chrome to show the pages.")


def page_after_scripts(path: Path, width: int = 1280, height: int = 720) -> str:
    """Return the HTML that the page `path` has when its scripts are done, in a window that reaches no other host."""
    with TemporaryDirectory() as profile:
        command = [BROWSER, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        command += [f"--window-size={width},{height}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command += ["--virtual-time-budget=20000", "--dump-dom", path.as_uri()]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300).stdout
