"""Download everything that the notebooks can use, before a lecture: ``make prefetch``."""

from __future__ import annotations

import sys

from utils.data import DownloadError, MicroImageNet, cache_dir, online
from utils.pretrained import fetch_weights, full_weights

# The full-size networks that the notebooks load; a test compares this list with them.
FULL_SIZE = ("alexnet", "googlenet", "resnet18")


def main() -> int:
    """Fetch photographs and weights, print what is there, and return the number of things that are missing."""
    if not online():
        print("There is no network: only what is already in the cache can be shown.")
    table, missing = [], 0
    photographs = MicroImageNet()
    complete = len(photographs) == 750
    missing += not complete
    table.append(("MicroImageNet", "106 MB", "there" if complete else "missing, for the reason above"))
    for name in FULL_SIZE:
        try:
            fetch_weights(name)
            state = "there"
        except DownloadError as error:
            state = f"missing; {error}"
            missing += 1
        table.append((name, f"{full_weights(name).meta['_file_size']:.0f} MB", state))
    print(f"\nIn {cache_dir()}:")
    for name, size, state in table:
        print(f"  {name:20} {size:>8}  {state}")
    return missing


if __name__ == "__main__":
    sys.exit(main())
