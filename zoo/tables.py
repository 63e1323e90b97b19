"""The zoo's CSV files: read as lists of dicts, written whole or not at all."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table `path`, each a dict of strings; an absent file has none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write `rows`, whose first gives the header, to `path`; whatever happens, the file is the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
