"""Write what ``zoo/README.md`` shows of the results: its table, and the chart of accuracy against cost.

python -m zoo.page
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

from zoo import WEIGHTS, ZOO
from zoo.tables import read_csv

FOLDER = Path(__file__).resolve().parent
MARKS = re.compile(r"(<!-- results of data/zoo/results.csv -->\n).*?(<!-- end of results -->)", re.DOTALL)


def table(rows: list[dict[str, str]]) -> str:
    """Return `rows` of results.csv as a Markdown table in the order of the zoo, which is the order of history."""
    lines = [
        "| network | top-1 | top-5 | parameters | multiply-adds | images/s | learning rate | stands in for |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        entry = ZOO[row["name"]]
        file = Path(inspect.getsourcefile(entry.build)).name
        lines.append(
            f"| [{row['name']}]({file}) | {float(row['top1']):.2f} % | {float(row['top5']):.2f} % "
            f"| {int(row['parameters']) / 1e6:.2f} M | {int(row['multiply_adds']) / 1e6:.1f} M "
            f"| {row['images_per_second']} | {row['optimizer']} {row['learning_rate']} "
            f"| {', '.join(entry.stands_for) or '–'} |"
        )
    return "\n".join(lines) + "\n"


def draw_chart(rows: list[dict[str, str]], path: Path) -> None:
    """Draw accuracy against multiply-adds, and against the measured time, side by side into the SVG file `path`."""
    import matplotlib.pyplot as plt

    from utils import plotting

    fig, axes = plt.subplots(1, 2, figsize=(12, 1.5 + 0.42 * max(len(rows), 8)), sharey=True, layout="constrained")
    accuracies = [float(row["top1"]) for row in rows]
    costs = [float(row["multiply_adds"]) / 1e6 for row in rows]
    times = [1000 / float(row["images_per_second"]) for row in rows]
    areas = [float(row["parameters"]) / 5000 for row in rows]
    for axis, xs, label in (
        (axes[0], costs, "Million multiply-adds for one image"),
        (axes[1], times, "Measured milliseconds for one image"),
    ):
        axis.scatter(xs, accuracies, s=areas, color=plotting.BLUE, alpha=0.5)
        axis.set(xlabel=label, xlim=(0, 1.15 * max(xs)), ylim=(min(accuracies) - 4, max(accuracies) + 4))
        # Names stand in a column at the right, far enough from each other, with a line to their circles.
        height = 2.0
        for y, x, row in sorted(zip(accuracies, xs, rows, strict=True), key=lambda point: -point[0]):
            height = min(height - 0.05, axis.transLimits.transform((0, y))[1])
            axis.annotate(
                row["name"],
                (x, y),
                xytext=(1.03, height),
                textcoords="axes fraction",
                va="center",
                fontsize=13,
                arrowprops={"arrowstyle": "-", "color": plotting.GREY, "linewidth": 0.8, "relpos": (0, 0.5)},
            )
    axes[0].set_ylabel("Top-1 accuracy in percent")
    fig.suptitle("Equal operations, unequal accuracy, unequal time; the area of a circle is its parameters")
    # The same table always gives the same file.
    with plt.rc_context({"svg.hashsalt": "zoo"}):
        about = {"Date": None, "Creator": None, "Description": table(rows)}  # by which a test knows what it shows
        fig.savefig(path, bbox_inches="tight", metadata=about)
    plt.close(fig)


def main() -> None:
    argparse.ArgumentParser(prog="python -m zoo.page", description=__doc__.split("\n")[0]).parse_args()
    rows = read_csv(WEIGHTS / "results.csv")
    page = FOLDER / "README.md"
    text = MARKS.sub(lambda match: match[1] + "\n" + table(rows) + "\n" + match[2], page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    draw_chart(rows, FOLDER / "accuracy.svg")


if __name__ == "__main__":
    main()
