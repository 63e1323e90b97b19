"""Plots of the notebooks: one style, legible from the last row, each with an alternative text.

Colors are those of Okabe and Ito (2008), which people with any common kind of color blindness can
tell apart. Every function shows its plot through :func:`show` and returns nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from torch import Tensor

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#666666",
)  # fmt: skip
LARGE = 200_000  # bytes
# Where a name can stand beside its circle, to the right and up, and how it is aligned there.
SIDES = ((0, 1, "center", "bottom"), (0, -1, "center", "top"), (1, 0, "left", "center"), (-1, 0, "right", "center"))
FIGURES = Path(__file__).resolve().parent.parent / "notebooks" / "figures"

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY]),
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 14,
        "figure.titlesize": 16,
        "axes.labelsize": 13,
        "figure.dpi": 100,
        "figure.figsize": (9, 4),
        "figure.facecolor": "white",  # not transparent: dark themes would swallow the labels
        "figure.constrained_layout.use": True,
        "font.size": 13,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "lines.linewidth": 2.5,
    }
)


def show(fig: Figure, alt: str) -> None:
    """Show `fig` with the alternative text `alt`, and close it; as a PNG, or photographs, which are large, as a JPEG.

    The alternative text is read to those who do not see the plot, and compared by the tests in
    place of the pixels: it says what the plot shows, without numbers that change from run to run.
    """
    canvas = FigureCanvasAgg(fig)  # drawn once: savefig would lay it out and draw it again for each kind
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    for kind in ("png", "jpeg"):
        picture = io.BytesIO()
        pixels.save(picture, kind)
        if picture.tell() < LARGE:
            break
    plt.close(fig)
    data = {f"image/{kind}": picture.getvalue(), "text/plain": alt}
    display(data, metadata={f"image/{kind}": {"alt": alt}}, raw=True)


def figure(name: str) -> None:
    """Show the diagram ``notebooks/figures/<name>.svg``; its title and description are the alternative text.

    Raises
    ------
    FileNotFoundError
        If there is no diagram of that name; the message lists those there are.
    """
    path = FIGURES / f"{name}.svg"
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in FIGURES.glob("*.svg")))
        raise FileNotFoundError(f"There is no diagram {name!r} in {FIGURES.name}/. There are: {names}.")
    svg = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    texts = (root.findtext(f"{{http://www.w3.org/2000/svg}}{tag}", "") for tag in ("title", "desc"))
    display({"image/svg+xml": svg, "text/plain": " ".join(". ".join(texts).split())}, raw=True)


def _set_title(fig: Figure, title: str) -> None:
    # Over the whole figure: a sentence is longer than the axes beside long labels are wide.
    fig.suptitle(title, x=0.01, horizontalalignment="left")


def image_grid(
    images: Sequence[Image.Image | Tensor],
    titles: Sequence[str] = (),
    columns: int = 3,
    alt: str = "",
    size: float = 3.0,
) -> None:
    """Show images in rows of `columns`, each with its title above it.

    Parameters
    ----------
    images : sequence of PIL images or tensors
        Tensors have the shape ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``; their values are stretched to black
        and white, image by image. Images keep their proportions.
    titles : sequence of str
        One for each image, or none at all.
    alt : str
        Alternative text; without it, one is made of the titles.
    size : float
        Width of an image in inches; the tallest decides the height of the rows.

    Raises
    ------
    ValueError
        If there is no image, or there are titles, but not one for each.
    """
    _check_images(images)
    if titles and len(titles) != len(images):
        raise ValueError(f"{len(images)} images need as many titles, or none; there are {len(titles)}.")
    images = [_pixels(image) for image in images]
    rows = -(-len(images) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    height = size * max(image.shape[0] / image.shape[1] for image in images) + 0.3 * lines
    fig, axes = plt.subplots(rows, columns, figsize=(columns * size, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        if titles:
            axis.set_title(titles[i], fontsize=13, loc="left")
    show(fig, alt or f"{len(images)} images: " + "; ".join(title.replace("\n", ", ") for title in titles))


def _check_images(images: Sequence) -> None:
    if not len(images):
        raise ValueError("There are no images to show.")


def _pixels(image: Image.Image | Tensor) -> np.ndarray:
    if isinstance(image, Tensor):
        image = image.detach().cpu().float()
        image = image.permute(1, 2, 0).squeeze(-1) if image.ndim == 3 else image
        return np.asarray((image - image.min()) / (image.max() - image.min()).clamp(min=1e-8))
    return np.asarray(image.convert("RGB"))  # so that a palette has its colors, and gray is not stretched


def prediction_grid(
    images: Sequence[Image.Image],
    truths: Sequence[str],
    names: Sequence[Sequence[str]],
    probabilities: Tensor,
    correct: Sequence[Sequence[bool]],
    columns: int = 3,
) -> None:
    """Show each image above a bar for each of its guesses; right guesses are green and ticked.

    Parameters
    ----------
    images, truths : sequences of length n
        The photographs and the names of what is on them.
    names, correct : sequences of n sequences of length k
        The k best guesses for each image, the best first, and whether each is right.
    probabilities : Tensor
        Their probabilities, shape ``(n, k)``.

    Raises
    ------
    ValueError
        If there is no image, or the sequences do not fit together.
    """
    _check_images(images)
    guesses = [len(row) for row in names]
    if not len(images) == len(truths) == len(names) or guesses != [len(row) for row in correct]:
        raise ValueError("Each image needs one truth, its guesses, and for each of these whether it is right.")
    count = guesses[0]
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(
        2 * rows,
        columns,
        figsize=(columns * 4, rows * (3 + 0.32 * count)),
        height_ratios=[3, 0.32 * count] * rows,
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        top, bottom = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
        top.imshow(_pixels(image))
        top.set_title(truths[i])
        bottom.set(xlim=(0, 1), ylim=(count - 0.5, -0.5))
        for rank, (name, hit) in enumerate(zip(names[i], correct[i], strict=True)):
            value = float(probabilities[i, rank])
            bottom.barh(rank, value, color=GREEN if hit else SKY, alpha=0.55, height=0.9)
            bottom.text(0.01, rank, f"{'✓ ' if hit else ''}{name}  {value:.0%}", va="center", fontsize=12)
    lines = (f"{truth}: " + ", ".join(row) for truth, row in zip(truths, names, strict=True))
    show(fig, "Photographs with their best guesses. " + "; ".join(lines))


def bars(
    values: Mapping[str, float], title: str, xlabel: str, alt: str, fmt: str = "{:,.0f}", highlight: Sequence[str] = ()
) -> None:
    """Show named numbers as horizontal bars, in the order given, each with its value at its end.

    Those named in `highlight` are orange, the others blue.
    """
    fig, axis = plt.subplots(figsize=(9, 0.9 + 0.42 * len(values)))
    colors = [ORANGE if name in highlight else BLUE for name in values]
    drawn = axis.barh(list(values), list(values.values()), color=colors)
    axis.bar_label(drawn, [fmt.format(value) for value in values.values()], padding=5)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.grid(axis="y", visible=False)
    axis.set(xlabel=xlabel)
    _set_title(fig, title)
    show(fig, alt)


def learning_curves(
    curves: Mapping[str, Sequence[float] | Sequence[Sequence[float]]],
    title: str,
    ylabel: str,
    alt: str,
    target: float | None = None,
) -> None:
    """Show one line for each name: a curve, or several (one for each seed) as thin lines around their mean.

    The first value belongs to epoch 1. `target` draws a dashed horizontal line.

    Raises
    ------
    ValueError
        If the curves of one name have different lengths, so that they have no mean.
    """
    for name, runs in curves.items():
        if len(lengths := {np.asarray(run).size for run in runs}) > 1:
            raise ValueError(f"The curves of {name!r} have different lengths: {sorted(lengths)}.")
    fig, axis = plt.subplots()
    for i, (name, runs) in enumerate(curves.items()):
        runs = np.atleast_2d(np.asarray(runs, dtype=float))
        epochs = np.arange(1, runs.shape[1] + 1)
        if len(runs) > 1:
            axis.plot(epochs, runs.T, color=f"C{i}", linewidth=1, alpha=0.4)
        axis.plot(epochs, runs.mean(0), color=f"C{i}", label=name)
    if target is not None:
        axis.axhline(target, color="black", linestyle="--", linewidth=1.5)
    axis.set(xlabel="Epoch", ylabel=ylabel)
    if len(curves) > 3:  # the legend gets room above the curves
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])
        axis.legend(loc="upper right", ncols=2)
    else:
        axis.legend()
    _set_title(fig, title)
    show(fig, alt)


def cost_chart(
    names: Sequence[str],
    multiply_adds: Sequence[float],
    accuracies: Sequence[float],
    parameters: Sequence[float],
    title: str,
    alt: str,
) -> None:
    """Show accuracy (in percent) against multiply-adds of one forward pass; the area of a circle is its parameters.

    A name stands above its circle, or else below or beside it, where it covers no other.

    After Bianco et al., "Benchmark Analysis of Representative Deep Neural Network Architectures", 2018.
    """
    fig, axis = plt.subplots(figsize=(9, 5.5))
    areas = 1500 * np.asarray(parameters, dtype=float) / max(parameters)
    axis.scatter(multiply_adds, accuracies, s=areas, color=BLUE, alpha=0.5)
    axis.set_xscale("log")
    axis.margins(0.12)
    axis.set(xlabel="Multiply-adds of one forward pass", ylabel="Top-1 accuracy in percent")
    _set_title(fig, title)
    fig.draw_without_rendering()  # lays it out, so that names can be measured
    radii = areas**0.5 / 2  # points
    places = axis.transData.transform(np.column_stack([multiply_adds, accuracies]))  # pixels
    reach = radii[:, None] * fig.dpi / 72
    taken = [Bbox([low, high]) for low, high in zip(places - reach, places + reach, strict=True)]
    for name, x, y, radius in zip(names, multiply_adds, accuracies, radii + 2, strict=True):
        trials = [
            axis.annotate(name, (x, y), (right * radius, up * radius), textcoords="offset points", ha=ha, va=va)
            for right, up, ha, va in SIDES
        ]
        boxes = [trial.get_window_extent() for trial in trials]
        in_the_way = [b.count_overlaps(taken) + (axis.bbox.count_contains(b.corners()) < 4) for b in boxes]
        best = int(np.argmin(in_the_way))
        for trial in trials[:best] + trials[best + 1 :]:
            trial.remove()
        taken.append(boxes[best])
    axis.text(
        0.99, 0.02, f"largest circle: {max(parameters) / 1e6:,.1f} M parameters", transform=axis.transAxes, ha="right"
    )
    show(fig, alt)
