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

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSER = next(filter(None, map(shutil.which, [*NAMES, MAC])), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="There is no Chromium or Chrome to show the pages.")


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
        dom = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300).stdout
    found = json.loads(BeautifulSoup(dom, "html.parser").pre.get_text())
    assert len(found) == len(pages), f"{pages[len(found)]} sent nothing"
    return found
