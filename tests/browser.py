"""Pages in the Chromium or Chrome of this machine, for the tests of slides and website."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bs4 import BeautifulSoup

NAMES = ["google-chrome", "google-chrome-stable", "chrome", "msedge", "chromium", "chromium-browser"]
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def confined(path: str) -> bool:
    """Tell whether a browser is Ubuntu's snap, or the script that starts it: a snap cannot read the tests' files."""
    with open(path, "rb") as file:
        return "snap" in Path(path).resolve().parts or b"/snap/" in file.read(4096)


BROWSER = next((path for path in map(shutil.which, [*NAMES, MAC]) if path and not confined(path)), None)
reason = "There is no Chromium or Chrome that can show the pages (a snap cannot read them)."
in_browser = pytest.mark.skipif(BROWSER is None, reason=reason)


# Shows one page after the other in a frame and gathers what they send by `parent.postMessage({ found }, "*")`.
SHELL = """
<!doctype html>
<body style="margin: 0">
<iframe style="border: 0"></iframe>
<pre></pre>
<script>
const pages = PAGES, found = [];
const frame = document.querySelector("iframe");
function next() {
  document.querySelector("pre").textContent = JSON.stringify(found);
  if (found.length < pages.length) Object.assign(frame, pages[found.length]);
  else frame.remove();
}
addEventListener("message", ({ data }) => { if (data.found) { found.push(data.found); next(); } });
next();
</script>
"""


def found_by_scripts(pages: Sequence[Path], widths: Sequence[int], folder: Path) -> list[dict]:
    """Return what each of the `pages` sends, in a window of its width that reaches no other host.

    One browser shows them all, as it starts longer than it shows a page. `folder` is for its files.
    """
    frames = [{"src": page.as_uri(), "width": width, "height": 720} for page, width in zip(pages, widths, strict=True)]
    shell = folder / "shell.html"
    shell.write_text(SHELL.replace("PAGES", json.dumps(frames)), encoding="utf-8")
    with TemporaryDirectory() as profile:
        command = [BROWSER, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        command += [f"--window-size={max(widths)},720", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command += ["--virtual-time-budget=600000", "--dump-dom", shell.as_uri()]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    shown = BeautifulSoup(done.stdout, "html.parser").pre
    assert shown, f"{BROWSER} could not show {shell}: {done.stderr[-500:]}"
    found = json.loads(shown.get_text())
    assert len(found) == len(pages), f"{pages[len(found)]} sent nothing"
    return found
