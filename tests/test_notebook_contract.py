"""What every notebook of the course must be, rule by rule; and that each rule does refuse a notebook that breaks it."""

import ast
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import nbformat
import pytest

from notebooks import NOTEBOOKS, ROOT
from tools.links import read_address

ADDRESS = read_address(ROOT)
GOALS = 3
CODE_LINES = 25  # of a cell
WORDS = 130  # of a Markdown cell, without addresses and formulas; speaker notes and solutions may be longer
OUTPUT_LINES = 60  # of an output
NOTES = "*For the lecturer.* "  # how speaker notes begin: in a notebook they look like the text for students
ALT_LENGTH = 20  # characters, at least
FILE_SIZE = 2_500_000  # bytes
IGNORED_SHARE = 0.25  # of the code cells
EXERCISES = range(3, 6)
WRONG_ANSWERS = 2  # for each exercise, at least
SLIDE_TYPES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
PIXELS = {"image/png", "image/jpeg"}
CLOSING = ["Take-aways", "Exercises", "Further reading"]
RETURN = re.compile(r"return \.\.\..*")  # of a stub
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>\n\n(?s:.*?)```python\n((?s:.*?))```(?s:.*)\n</details>")


class Cell:
    """A cell with its number, counted from 1, by which messages call it."""

    def __init__(self, number: int, node: nbformat.NotebookNode):
        self.number, self.node = number, node
        self.kind, self.source, self.outputs = node.cell_type, node.source, node.get("outputs", [])
        self.tags = node.metadata.get("tags", [])
        self.slide_type = node.metadata.get("slideshow", {}).get("slide_type")

    def __str__(self) -> str:
        return f"cell {self.number}"

    def headings(self) -> Iterator[tuple[int, str]]:
        """Level and text of each heading."""
        if self.kind == "markdown":
            for marks, text in re.findall(r"^(#+) (.*)", without_code(self.source), re.M):
                yield len(marks), text.strip()


class Notebook:
    def __init__(self, path: Path):
        self.path = path
        self.node = nbformat.read(path, as_version=4)
        self.cells = [Cell(number, cell) for number, cell in enumerate(self.node.cells, 1)]
        self.code = [cell for cell in self.cells if cell.kind == "code"]
        self.markdown = [cell for cell in self.cells if cell.kind == "markdown"]
        self.outputs = [(cell, output) for cell in self.code for output in cell.outputs]

    def section(self, title: str) -> list[Cell]:
        """The cells from the heading ``## title`` up to the next of its level."""
        found, cells = False, []
        for cell in self.cells:
            titles = [text for level, text in cell.headings() if level == 2]
            found = title in titles if titles else found
            cells += [cell] if found else []
        return cells


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)


def texts(output: nbformat.NotebookNode) -> dict[str, str]:
    """All that an output holds but pixels, by its MIME type."""
    parts = {"text": output.get("text", ""), "traceback": "\n".join(output.get("traceback", []))}
    parts |= {kind: str(data) for kind, data in output.get("data", {}).items()}
    return {kind: part for kind, part in parts.items() if kind not in PIXELS}


# The rules. Each yields what is wrong, in words.

Rule = Callable[[Notebook], Iterator[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


@rule
def is_a_valid_notebook_for_any_python_3(notebook: Notebook) -> Iterator[str]:
    try:
        nbformat.validate(notebook.node)
    except nbformat.ValidationError as error:
        yield f"nbformat: {error.message}"
    if notebook.node.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "The kernel must be called python3."
    if (size := notebook.path.stat().st_size) > FILE_SIZE:
        yield f"The file has {size:,} bytes, more than {FILE_SIZE:,}."


@rule
def opens_with_title_badge_question_goals_and_needs(notebook: Notebook) -> Iterator[str]:
    first = notebook.cells[0]
    number = notebook.path.name[:2]
    if first.kind != "markdown" or not re.match(rf"# {number} · \S", first.source):
        yield f"The first cell must be Markdown and begin with '# {number} · Title'."
    if ADDRESS.badge(notebook.path.name) not in first.source:
        yield "The first cell must have this notebook's badge; `make links` corrects it."
    text = first.source.replace(ADDRESS.badge(notebook.path.name), "")
    if "?" not in text:
        yield "The first cell must ask the question that the notebook answers."
    if (goals := len(re.findall(r"^(?:[-*]|\d\.) ", text, re.M))) != GOALS:
        yield f"The first cell must list {GOALS} learning goals, it lists {goals}."
    needs = {
        "cores": r"\bCPU\b",
        "memory": r"\d\s[GM]i?B\b",
        "time": r"\d\s(s|min|seconds|minutes)\b",
        "GPU": r"\bGPU\b",
    }
    for need, pattern in needs.items():
        if not re.search(pattern, text):
            yield f"The first cell must say what the notebook needs: {need} ({pattern})."


@rule
def has_the_setup_cell_to_the_letter(notebook: Notebook) -> Iterator[str]:
    if notebook.cells[1].kind != "code" or notebook.cells[1].source != ADDRESS.setup_cell():
        yield "The second cell must be tools/setup_cell.py with the course's address; `make links` corrects it."
    if notebook.cells[1].outputs:
        yield "The setup cell must print nothing."


@rule
def is_executed_in_order(notebook: Notebook) -> Iterator[str]:
    if empty := [str(cell) for cell in notebook.cells if not cell.source.strip()]:
        yield f"Empty: {', '.join(empty)}."
    counts = [cell.node.execution_count for cell in notebook.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"The execution counts must be 1, 2, 3 …, they are {counts}; `make notebooks` executes all."


@rule
def has_a_slide_type_on_every_cell(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.cells:
        if cell.slide_type not in SLIDE_TYPES:
            yield f"{cell} has the slide type {cell.slide_type!r}."
        if (cell.slide_type == "notes") != cell.source.startswith(NOTES):
            yield f"{cell}: speaker notes, and only they, must begin with '{NOTES}'."


@rule
def fits_on_slides(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        if (lines := cell.source.count("\n") + 1) > CODE_LINES:
            yield f"{cell} has {lines} lines, more than {CODE_LINES}."
    for cell in notebook.markdown:
        text = re.sub(r"\]\([^)]*\)|<[^>]*>|\$\$.*?\$\$|\$.*?\$", " ", cell.source, flags=re.S)
        words = len(re.findall(r"\w[\w'’.,-]*", text))
        if words > WORDS and cell.slide_type != "notes" and "solution" not in cell.tags:
            yield f"{cell} has {words} words, more than {WORDS}."


@rule
def has_alternative_texts(notebook: Notebook) -> Iterator[str]:
    for cell, output in notebook.outputs:
        data = output.get("data", {})
        for kind in PIXELS & data.keys():
            alt = output.metadata.get(kind, {}).get("alt", "")
            if len(alt) < ALT_LENGTH or alt != data.get("text/plain"):
                yield f"{cell}: a plot must be shown with utils.plotting.show() and an alternative text that says it."
        svg = data.get("image/svg+xml", "<title>-</title><desc>-</desc>")
        if not all(re.search(rf"<{tag}\b[^>]*>\s*[^\s<]", svg) for tag in ("title", "desc")):
            yield f"{cell}: an SVG must have a <title> and a <desc>."
        if re.search(r"<img(?![^>]*\balt=.[^\"'])", data.get("text/html", "")):
            yield f"{cell}: an <img> needs an alternative text."
    for cell in notebook.markdown:
        if re.search(r"!\[\s*\]|<img(?![^>]*\balt=.[^\"'])", without_code(cell.source)):
            yield f"{cell}: an image needs an alternative text."


@rule
def prints_nothing_long_and_no_noise(notebook: Notebook) -> Iterator[str]:
    for cell, output in notebook.outputs:
        for kind, text in texts(output).items():
            lines = text.count("<tr") if kind == "text/html" else len(text.splitlines())
            if lines > OUTPUT_LINES and kind != "image/svg+xml":
                yield f"{cell} prints {lines} lines, more than {OUTPUT_LINES}."
            if re.search(r"\r|\d ?(it/s|s/it)\b|%\|", text) or "widget" in kind:
                yield f"{cell} has what is left of a progress bar in its output."
        if output.get("name") == "stderr":
            yield f"{cell} writes to stderr: {output.text.strip()}"


@rule
def raises_only_what_it_announces(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        raised = any(output.output_type == "error" for output in cell.outputs)
        if raised != ("raises-exception" in cell.tags):
            yield f"{cell} {'raises' if raised else 'does not raise'} an exception, its tags say otherwise."


@rule
def lets_nbval_compare_its_outputs(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        if any("skip" in tag for tag in cell.tags) or re.search("NBVAL_|PYTEST_VALIDATE_", cell.source):
            yield f"{cell} has a marker that turns its test off; only tags are allowed, and no skipping."
    ignored = sum("ignore-output" in tag for cell in notebook.code for tag in cell.tags)
    if ignored > IGNORED_SHARE * len(notebook.code):
        yield f"{ignored} of {len(notebook.code)} code cells are not compared, more than {IGNORED_SHARE:.0%}."


@rule
def is_plain_python(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        try:
            compile(cell.source, str(cell), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            yield f"{cell} is not plain Python (no !command, no %magic): {error.text}"
        if "get_ipython" in cell.source:
            yield f"{cell} calls IPython's magic."
        calls = r"""os\.(?:system|popen|spawn\w+|exec\w+)\b|subprocess\.(?!TimeoutExpired|run\(\["nvidia-smi"\],)\w+"""
        if cell.number != 2 and (other := re.search(calls, cell.source)):
            yield f"{cell} starts another program, which SECURITY.md excludes: {other[0]}"


@rule
def has_headings_in_order(notebook: Notebook) -> Iterator[str]:
    headings = [(cell, level, text) for cell in notebook.markdown for level, text in cell.headings()]
    levels = [0, *(level for _, level, _ in headings)]
    if levels.count(1) != 1:
        yield f"There must be one heading of level 1, there are {levels.count(1)}."
    for (cell, level, text), before in zip(headings, levels, strict=False):
        if level > before + 1:
            yield f"{cell}: '{text}' is of level {level}, right below level {before}."


@rule
def closes_with_take_aways_exercises_and_further_reading(notebook: Notebook) -> Iterator[str]:
    titles = [text for cell in notebook.markdown for level, text in cell.headings() if level == 2]
    if titles[-3:] != CLOSING:
        yield f"The last three sections must be {', '.join(CLOSING)}; they are {', '.join(titles[-3:])}."
    readings = [line for cell in notebook.section(CLOSING[-1]) for line in re.findall(r"^[-*] .*", cell.source, re.M)]
    if not readings:
        yield "Further reading must be a list."
    for line in readings:
        if not re.search(r"\b(19|20)\d\d\b", line) or "](https://" not in line:
            yield f"Further reading needs a year and a link: {line}"


@rule
def names_no_path_of_a_machine(notebook: Notebook) -> Iterator[str]:
    places = [(cell, cell.source) for cell in notebook.cells if cell.number != 2]
    places += [(cell, text) for cell, output in notebook.outputs for text in texts(output).values()]
    for cell, text in places:
        path = re.search(r"(?<![\w./<])/(root|home|Users|tmp|content|mnt)\b|\b[A-Z]:\\(?=Users|Windows|Program)", text)
        if path or str(ROOT) in text:
            yield f"{cell} names a path of one machine: {path[0] if path else ROOT}"


@rule
def has_exercises_with_stub_check_and_solution(notebook: Notebook) -> Iterator[str]:
    cells = notebook.section("Exercises")
    titles = [(cell, text) for cell in cells for level, text in cell.headings() if level == 3]
    if len(titles) not in EXERCISES:
        yield f"There must be 3 to 5 exercises (### Exercise k: …), there are {len(titles)}."
    for number, (cell, title) in enumerate(titles, 1):
        if not title.startswith(f"Exercise {number}: "):
            yield f"{cell}: '### {title}' must begin with 'Exercise {number}: '."
        parts = [("code", "exercise"), ("code", "check"), ("markdown", "solution")]
        after = notebook.cells[cell.number : cell.number + 3]
        if [(part.kind, *part.tags[:1]) for part in after] != parts:
            yield f"{cell} must be followed by cells with the first tags {parts}."
        elif not SOLUTION.fullmatch(after[2].source.strip()):
            yield f"{after[2]} must be <details>, <summary>Solution</summary>, empty line, ```python block, </details>."
    tagged = [cell for cell in notebook.cells if {"exercise", "check", "solution"} & set(cell.tags)]
    if len(tagged) != 3 * len(titles):
        yield "Cells tagged exercise, check or solution belong into the section Exercises, one each for an exercise."


@rule
def has_checks_that_tell_right_from_wrong(notebook: Notebook) -> Iterator[str]:
    stubs, checks, solutions = ([c for c in notebook.cells if t in c.tags] for t in ("exercise", "check", "solution"))
    for number, (stub, check, solution) in enumerate(zip(stubs, checks, solutions, strict=False), 1):
        answer = partial(answer_to, check)
        if not (untouched := answer(stub.source)).startswith(f"Exercise {number}: not yet"):
            yield f"{check} must say 'Exercise {number}: not yet …' to the untouched stub, it says: {untouched}"
        block = SOLUTION.fullmatch(solution.source.strip())
        if (right := answer(block[1] if block else "")) != f"Exercise {number}: correct.":
            yield f"{check} must say 'Exercise {number}: correct.' to the solution, it says: {right}"
        forgotten = answer(RETURN.sub("pass", stub.source))
        if not forgotten.startswith(f"Exercise {number}: "):
            yield f"{check} must also answer a function without return, it says: {forgotten}"
        wrong = check.node.metadata.get("wrong_answers", [])
        if len(wrong) < WRONG_ANSWERS:
            yield f"{check} needs {WRONG_ANSWERS} wrong_answers in its metadata, it has {len(wrong)}."
        messages = [answer(attempt["code"]) for attempt in wrong]
        for message, attempt in zip(messages, wrong, strict=True):
            if not message.startswith(f"Exercise {number}: ") or not re.search(attempt["says"], message):
                yield f"{check} must say '{attempt['says']}' to a wrong answer, it says: {message}"
        if len({untouched, right, *messages}) < 2 + len(messages):
            yield f"{check} must say something else to each wrong answer, it says: {messages}"


def answer_to(check: Cell, attempt: str) -> str:
    """What a check prints after an attempt, in a fresh namespace: an exercise needs nothing from the rest."""
    says, namespace = io.StringIO(), {"__name__": "__main__"}
    with contextlib.redirect_stdout(says):
        try:
            exec(attempt, namespace)
            exec(check.source, namespace)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return says.getvalue().strip()


# Every notebook keeps every rule.

read = cache(Notebook)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, rule: Rule):
    assert "\n".join(rule(read(path))) == ""


def test_the_readme_lists_the_lectures_in_order_and_links_those_that_are_there():
    rows = re.findall(r"^\| (\d\d) \| (.+?) \|.*\| (.+?) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 12
    assert [number for number, _, _ in rows] == [path.name[:2] for path in NOTEBOOKS]
    for path, (_, lecture, last) in zip(NOTEBOOKS, rows, strict=True):
        assert f"(notebooks/{path.name})" in lecture and last.startswith("[![Open in Colab]")


def test_the_benchmarks_have_time_and_memory_of_every_lecture_within_what_is_promised():
    text = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d · .+?) \| (\d+) \| ([\d.]+) \|$", text, re.M)
    titles = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0] for path in NOTEBOOKS]
    assert [f"# {title}" for title, _, _ in rows] == titles, "Correct the title in BENCHMARKS.md, or run `make bench`."
    assert all(int(seconds) <= 90 and float(memory) <= 2 for _, seconds, memory in rows)


# Every rule can fail: a small notebook keeps them all, and each way to spoil it is refused by the rule that is meant.


def markdown(source: str, slide_type: str = "slide", **metadata: object) -> dict:
    return {"source": source, "cell_type": "markdown", "metadata": {"slideshow": {"slide_type": slide_type}} | metadata}


def code(source: str, *outputs: dict, **metadata: object) -> dict:
    metadata = {"slideshow": {"slide_type": "-"}} | metadata
    return {"source": source, "cell_type": "code", "metadata": metadata, "outputs": list(outputs), "execution_count": 0}


def printed(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def shown(metadata: dict | None = None, **data: str) -> dict:
    data = {kind.replace("_", "/"): text for kind, text in data.items()}
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


ALT = "A line that rises from 0 to 1 within ten epochs."
PLOT = shown({"image/png": {"alt": ALT}}, image_png="iVBORw0KGgo=", text_plain=ALT)
SVG = shown(**{"image_svg+xml": "<svg><title>A block</title><desc>Two layers and a sum.</desc></svg>"})
IGNORE = "nbval-ignore-output"
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": ["ValueError"]}
CHECK = """
result = double(2)
if result is ...:
    print("Exercise {number}: not yet: replace the three dots.")
elif result == 4:
    print("Exercise {number}: correct.")
else:
    print(f"Exercise {number}: twice 2 is not {{result}}.")
"""


def exercise(number: int) -> list[dict]:
    wrong = [
        {"code": "def double(x): return x", "says": "is not 2"},
        {"code": "def double(x): return x + 1", "says": "is not 3"},
    ]
    block = "```python\ndef double(x):\n    return 2 * x\n```"
    return [
        markdown(f"### Exercise {number}: twice\n\nWrite a function that doubles a number."),
        code("def double(x):\n    return ...", tags=["exercise"]),
        code(CHECK.format(number=number), printed("…"), tags=["check"], wrong_answers=wrong),
        markdown(f"<details>\n<summary>Solution</summary>\n\n{block}\n\n</details>", tags=["solution"]),
    ]


def sample() -> dict:
    """A notebook file that keeps all rules."""
    opening = f"""# 01 · A sample

{ADDRESS.badge("01_sample.ipynb")}

What does a lecture need?

1. See one thing.
2. See another.
3. See a third.

Needs 2 CPU cores, 1.5 GB, about 40 s; a GPU does not help.
"""
    cells = [
        markdown(opening),
        code(ADDRESS.setup_cell()),
        markdown("## The problem\n\n![A cat](cat.png)\n\n```python\n# no heading\n```"),
        code("answer = 1\nprint(answer)", printed("1\n")),
        code("show()", PLOT, SVG, shown(text_html="<table><tr><td>1</td></tr></table>")),
        code("time()", printed("0.1 s\n"), tags=[IGNORE]),
        code("raise ValueError", ERROR, tags=["raises-exception"]),
        markdown(NOTES + "word " * 497, "notes"),
        markdown("## Take-aways\n\n- It works."),
        markdown("## Exercises"),
        *exercise(1),
        *exercise(2),
        *exercise(3),
        markdown("## Further reading\n\n- Krizhevsky et al., [ImageNet classification](https://example.org), 2012"),
    ]
    for turn, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = turn
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path, notebook: dict) -> Notebook:
    path = folder / "01_sample.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return Notebook(path)


def test_the_sample_keeps_all_rules(tmp_path: Path):
    notebook = write(tmp_path, sample())
    assert [problem for rule in RULES for problem in rule(notebook)] == []


def source(number: int, old: str, new: str) -> Callable[[dict], None]:
    """Replace text in the source of a cell; cells are counted from 1."""

    def spoil(notebook: dict) -> None:
        cell = notebook["cells"][number - 1]
        assert old in cell["source"]
        cell["source"] = cell["source"].replace(old, new)

    return spoil


def output(number: int, *outputs: dict) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number - 1].update(outputs=list(outputs))


def metadata(number: int, **changes: object) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number - 1]["metadata"].update(changes)


def count(number: int, value: int | None) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number - 1].update(execution_count=value)


def delete(*numbers: int) -> Callable[[dict], None]:
    return lambda notebook: [notebook["cells"].pop(number - 1) for number in sorted(numbers, reverse=True)]


def lie(kind: str) -> Callable[[dict], None]:
    """Give the plot an alternative text that is missing, too short, or not the one in text/plain."""
    alt, plain = {"none": (None, ALT), "short": ("A plot.", "A plot."), "other": (ALT, "<Figure size 640x480>")}[kind]
    return output(5, shown({"image/png": {"alt": alt}} if alt else {}, image_png="iVBORw0KGgo=", text_plain=plain))


BROKEN: dict[Rule, list[tuple[str, Callable[[dict], object]]]] = {
    is_a_valid_notebook_for_any_python_3: [
        ("nbformat", lambda n: n["cells"][3].pop("outputs")),
        ("kernel", lambda n: n["metadata"]["kernelspec"].update(name="my-env")),
        ("bytes", output(4, shown(image_png="A" * FILE_SIZE))),
    ],
    opens_with_title_badge_question_goals_and_needs: [
        ("begin with", source(1, "# 01 ·", "# 02 ·")),
        ("begin with", source(1, "# 01 · A sample", "Hello")),
        ("badge", source(1, "01_sample.ipynb", "02_other.ipynb")),
        ("badge", source(1, ADDRESS.repository, "some/fork")),
        ("question", source(1, "need?", "need.")),
        ("goals, it lists 2", source(1, "3. See a third.\n", "")),
        ("cores", source(1, "CPU", "")),
        ("memory", source(1, "1.5 GB", "")),
        ("time", source(1, "40 s", "")),
        ("GPU", source(1, "GPU", "")),
    ],
    has_the_setup_cell_to_the_letter: [
        ("second cell", source(2, "run this cell", "run that cell")),
        ("second cell", delete(2)),
        ("nothing", output(2, printed("Hello"))),
    ],
    is_executed_in_order: [
        ("counts", count(4, None)),
        ("counts", count(2, 7)),
        ("counts", delete(4)),
        ("Empty: cell 4", source(4, "answer = 1\nprint(answer)", " \n")),
    ],
    has_a_slide_type_on_every_cell: [
        ("cell 3 .* None", lambda n: n["cells"][2]["metadata"].clear()),
        ("cell 3 .* 'poster'", metadata(3, slideshow={"slide_type": "poster"})),
        ("cell 8: speaker notes", source(8, NOTES, "")),
        ("cell 3: speaker notes", source(3, "## The problem", NOTES)),
    ],
    fits_on_slides: [
        ("26 lines", source(4, "print(answer)", "\n" * 24)),
        ("cell 8 has 500 words", metadata(8, slideshow={"slide_type": "slide"})),
    ],
    has_alternative_texts: [
        ("cell 5: a plot", lie("none")),
        ("cell 5: a plot", lie("short")),
        ("cell 5: a plot", lie("other")),
        ("cell 5: a plot", output(5, shown(image_jpeg="/9j/"))),
        ("SVG", output(5, shown(**{"image_svg+xml": "<svg><title>A</title><desc> </desc></svg>"}))),
        ("SVG", output(5, shown(**{"image_svg+xml": "<svg><desc>Two layers</desc></svg>"}))),
        ("<img>", output(5, shown(text_html="<img src='a.png'>"))),
        ("cell 3: an image", source(3, "A cat", "")),
        ("cell 3: an image", source(3, "![A cat](cat.png)", "<img src='cat.png' alt=''>")),
    ],
    prints_nothing_long_and_no_noise: [
        ("61 lines", output(4, printed("\n" * 61))),
        ("61 lines", output(4, shown(text_html="<tr><td>1</td></tr>" * 61))),
        ("progress bar", output(4, printed("epoch 1\repoch 2"))),
        ("progress bar", output(4, printed("10/10 [00:01<00:00, 9.87it/s]"))),
        ("progress bar", output(4, shown(**{"application_vnd.jupyter.widget-view": ""}))),
        ("stderr: Careful", output(4, printed("Careful", "stderr"))),
    ],
    raises_only_what_it_announces: [
        ("cell 4 raises", output(4, ERROR)),
        ("cell 7 does not raise", output(7)),
    ],
    lets_nbval_compare_its_outputs: [
        ("cell 4 has a marker", metadata(4, tags=["nbval-skip"])),
        ("cell 4 has a marker", metadata(4, tags=["skip-execution"])),
        ("cell 4 has a marker", source(4, "answer = 1", "# NBVAL_SKIP")),
        ("cell 4 has a marker", source(4, "answer = 1", "# NBVAL_IGNORE_OUTPUT")),
        ("4 of 11", lambda n: [metadata(i, tags=[IGNORE])(n) for i in (4, 5, 7)]),
    ],
    is_plain_python: [
        ("cell 4 .*ls", source(4, "answer = 1", "!ls")),
        ("cell 4 .*ls", source(4, "answer = 1", "files = !ls")),
        ("cell 4 .*matplotlib", source(4, "answer = 1", "%matplotlib inline")),
        ("cell 4 .*time", source(4, "answer = 1", "%%time")),
        ("cell 4 calls", source(4, "answer = 1", "get_ipython().system('ls')")),
        ("cell 4 starts .*os.system", source(4, "answer = 1", "os.system('ls')")),
        ("cell 4 starts .*subprocess.run", source(4, "answer = 1", "subprocess.run(['ls'])")),
    ],
    has_headings_in_order: [
        ("are 2", source(3, "## The problem", "# The problem")),
        ("are 0", source(1, "# 01", "01")),
        ("cell 3: .* level 3, right below level 1", source(3, "## The", "### The")),
    ],
    closes_with_take_aways_exercises_and_further_reading: [
        ("last three", delete(9)),
        ("last three", source(23, "reading", "ado")),
        ("a list", source(23, "- Kri", "Kri")),
        ("a year", source(23, "2012", "")),
        ("a link", source(23, "(https://example.org)", "")),
    ],
    names_no_path_of_a_machine: [
        ("cell 4 .*/home", output(4, printed("saved in /home/me/.cache"))),
        ("cell 4 .*/home", output(4, shown(text_html="<b>/home/me</b>"))),
        ("cell 4 .*C:", output(4, printed("C:\\Users\\me"))),
        ("cell 4 .*/content", source(4, "1", "'/content/data'")),
        (f"cell 7 .*{re.escape(str(ROOT))}", output(7, ERROR | {"traceback": [f"x{ROOT}/utils"]})),
    ],
    has_exercises_with_stub_check_and_solution: [
        ("3 to 5 exercises", delete(11, 12, 13, 14)),
        ("begin with 'Exercise 1: '", source(11, "Exercise 1", "Exercise 2")),
        ("cell 11 must be followed", delete(12)),
        ("cell 15 must be followed", metadata(17, tags=[])),
        ("cell 14 must be <details>", source(14, "Solution", "Answer")),
        ("cell 14 must be <details>", source(14, "</summary>\n\n", "</summary>")),
        ("belong into", metadata(5, tags=["exercise"])),
    ],
    has_checks_that_tell_right_from_wrong: [
        ("untouched stub", source(12, "...", "2 * x")),
        ("untouched stub, it says: NameError", source(12, "double", "triple")),
        ("to the solution", source(14, "2 * x", "3 * x")),
        ("to the solution", source(14, "```python", "```")),
        ("needs 2 wrong_answers", metadata(13, wrong_answers=[])),
        ("must say 'is not 3'", source(13, "is not", "is surely not")),
        ("without return, it says: TypeError", source(13, "result == 4", "result + 0 == 4")),
        ("something else", source(13, "not {result}", "this: is not 2, is not 3")),
    ],
}


@pytest.mark.parametrize(("rule", "says", "spoil"), [(rule, *case) for rule in BROKEN for case in BROKEN[rule]])
def test_a_spoiled_notebook_is_refused(rule: Rule, says: str, spoil: Callable[[dict], object], tmp_path: Path):
    notebook = sample()
    spoil(notebook)
    assert re.search(says, "\n".join(rule(write(tmp_path, notebook))))


def test_every_rule_is_seen_to_refuse():
    assert list(BROKEN) == RULES
