"""The plots: each shows one image with its alternative text, and draws what it is given."""

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.transforms import Bbox
from PIL import Image

from utils import plotting


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """What the notebook would show: dicts with the picture, its alternative text, and the figure itself."""
    displayed, figures = [], []
    close = plt.close
    monkeypatch.setattr(plt, "close", lambda fig: figures.append(fig) or close(fig))

    def display(data: dict, metadata: dict | None = None, raw: bool = False) -> None:
        assert raw
        displayed.append({**data, "metadata": metadata, "figure": figures[-1] if figures else None})

    monkeypatch.setattr(plotting, "display", display)
    return displayed


def texts(axis: plt.Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def check_picture(output: dict) -> None:
    alt = output["text/plain"]
    assert output["metadata"] == {"image/png": {"alt": alt}}
    with Image.open(BytesIO(output["image/png"])) as image:
        assert image.format == "PNG" and image.width >= 200
        assert len(image.convert("L").getcolors()) > 3  # something is drawn
    assert plt.get_fignums() == []


def test_show_gives_picture_and_alternative_text_and_closes_the_figure(shown):
    fig, axis = plt.subplots()
    axis.plot([0, 1])
    plotting.show(fig, "A line that rises from zero to one.")
    check_picture(shown[0])
    assert shown[0]["text/plain"] == "A line that rises from zero to one."


def test_photographs_are_stored_as_jpeg_which_keeps_notebooks_small(shown):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8))
    plotting.image_grid([noise] * 2, alt="Two images of noise, side by side.", columns=2, size=5)
    output = shown[0]
    assert output["image/jpeg"].startswith(b"\xff\xd8") and "image/png" not in output
    assert output["metadata"] == {"image/jpeg": {"alt": output["text/plain"]}}


def test_every_diagram_is_shown_with_its_title_and_description(shown):
    for path in plotting.FIGURES.glob("*.svg"):
        plotting.figure(path.stem)
        output = shown.pop()
        assert output["image/svg+xml"].lstrip().startswith(("<svg", "<?xml"))
        assert len(output["text/plain"]) > 40 and "\n" not in output["text/plain"]


def test_a_diagram_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(FileNotFoundError, match=r"'no_such'.*alexnet_towers"):
        plotting.figure("no_such")


def test_image_grid_takes_photographs_and_tensors_of_every_shape(shown):
    images = [Image.new("RGB", (30, 20), "red"), torch.rand(8, 8), torch.rand(1, 8, 8), torch.rand(3, 8, 8) - 5]
    plotting.image_grid(images, ["a", "b", "c", "d\nsecond line"], columns=3)
    check_picture(shown[0])
    axes = shown[0]["figure"].axes
    assert [axis.get_title(loc="left") for axis in axes] == ["a", "b", "c", "d\nsecond line", "", ""]
    assert "d, second line" in shown[0]["text/plain"]
    last = axes[3].images[0].get_array()
    assert last.shape == (8, 8, 3) and last.min() == 0 and last.max() == 1
    assert np.ptp(axes[0].images[0].get_array()[..., 0]) == 0  # photographs are shown as they are


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "L"])
def test_photographs_of_every_mode_are_shown_as_they_are(shown, mode):
    gray = Image.linear_gradient("L").point(lambda value: 100 + value // 16)
    image = gray if mode == "L" else Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
    plotting.image_grid([image], alt="One image.", columns=1)
    plotting.prediction_grid([image], ["a"], [["b"]], torch.ones(1, 1), [[False]], columns=1)
    for output in shown:
        drawn = output["figure"].axes[0].images[0].get_array()
        np.testing.assert_array_equal(drawn, np.asarray(image.convert("RGB")))


def test_what_does_not_fit_together_is_refused(shown):
    with pytest.raises(ValueError, match="2 images need as many titles, or none; there are 1"):
        plotting.image_grid([torch.rand(8, 8)] * 2, ["a"])
    with pytest.raises(ValueError, match=r"'two' have different lengths: \[2, 3\]"):
        plotting.learning_curves({"two": [[4, 2], [3, 2, 1]]}, "Title", "Error", "Lines.")
    guesses = [["cat", "dog"]], torch.tensor([[0.9, 0.1]])
    with pytest.raises(ValueError, match="Each image needs one truth"):
        plotting.prediction_grid([torch.rand(3, 8, 8)], ["cat"], *guesses, [[True]])
    for no_images in (lambda: plotting.image_grid([]), lambda: plotting.prediction_grid([], [], [], None, [])):
        with pytest.raises(ValueError, match="no images to show"):
            no_images()
    assert not plt.get_fignums()


def test_prediction_grid_writes_every_guess_and_ticks_the_right_ones(shown):
    images = [Image.new("RGB", (20, 30)), Image.new("RGB", (30, 20))]
    names = [["tabby", "tiger cat"], ["cup", "espresso"]]
    probabilities = torch.tensor([[0.61, 0.2], [0.5, 0.25]])
    plotting.prediction_grid(images, ["cat", "coffee"], names, probabilities, [[True, True], [False, True]])
    check_picture(shown[0])
    above = [(axis.get_title(loc="left"), axis.images[0].get_size()) for axis in shown[0]["figure"].axes[:2]]
    assert above == [("cat", (30, 20)), ("coffee", (20, 30))]
    drawn = [text for axis in shown[0]["figure"].axes for text in texts(axis)]
    assert drawn == ["✓ tabby  61%", "✓ tiger cat  20%", "cup  50%", "✓ espresso  25%"]
    assert "coffee: cup, espresso" in shown[0]["text/plain"]
    widths = [bar.get_width() for axis in shown[0]["figure"].axes for bar in axis.patches]
    assert widths == pytest.approx([0.61, 0.2, 0.5, 0.25])


def test_bars_are_drawn_in_order_with_their_values(shown):
    plotting.bars({"one": 1, "thousand": 1000}, "Title", "Number", "Two bars.", highlight=["one"])
    check_picture(shown[0])
    axis = shown[0]["figure"].axes[0]
    assert [bar.get_width() for bar in axis.patches] == [1, 1000]
    assert texts(axis) == ["1", "1,000"]
    assert axis.patches[0].get_facecolor() != axis.patches[1].get_facecolor()
    assert axis.yaxis_inverted() and axis.get_xlabel() == "Number"
    assert shown[0]["figure"].get_suptitle() == "Title"


def test_learning_curves_show_each_run_and_their_mean(shown):
    plotting.learning_curves({"one": [3, 2, 1], "two": [[4, 2], [2, 0]]}, "Title", "Error", "Lines.", target=1.5)
    check_picture(shown[0])
    figure = shown[0]["figure"]
    words = figure.get_suptitle(), figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    assert words == ("Title", "Epoch", "Error")
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[3, 2, 1], [4, 2], [2, 0], [3, 1], [1.5, 1.5]]
    assert list(lines[0].get_xdata()) == [1, 2, 3]
    assert [text.get_text() for text in shown[0]["figure"].axes[0].get_legend().get_texts()] == ["one", "two"]


def test_the_cost_chart_gives_parameters_as_areas(shown):
    plotting.cost_chart(["a", "b"], [1e6, 1e9], [50, 70], [1e6, 4e6], "Title", "Two circles.")
    check_picture(shown[0])
    axis = shown[0]["figure"].axes[0]
    areas = axis.collections[0].get_sizes()
    assert areas[1] / areas[0] == pytest.approx(4)
    assert axis.collections[0].get_offsets().tolist() == [[1e6, 50], [1e9, 70]]
    assert axis.get_xscale() == "log" and texts(axis)[:2] == ["a", "b"]


def test_names_in_a_cost_chart_cover_no_circle_and_no_other_name(shown):
    plotting.cost_chart(list("abcd"), [1e9] * 4, [70, 72, 74, 90], [4e6, 4e6, 4e6, 1e6], "Title", "Four circles.")
    axis = shown[0]["figure"].axes[0]
    names = [text.get_window_extent() for text in axis.texts if len(text.get_text()) == 1]
    centers = axis.transData.transform(axis.collections[0].get_offsets())
    reach = axis.collections[0].get_sizes()[:, None] ** 0.5 / 2 * shown[0]["figure"].dpi / 72
    circles = [Bbox([low, high]) for low, high in zip(centers - reach, centers + reach, strict=True)]
    assert len(names) == 4
    for number, name in enumerate(names):
        assert name.count_overlaps(circles + names[:number]) == 0
        assert axis.bbox.count_contains(name.corners()) == 4
