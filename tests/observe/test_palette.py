"""Every picture is readable on a white and on a black page, in gray, and by color-blind readers; computed."""

import math
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from minitrain.commands import compare_precision, lr_range, small_runs
from minitrain.commands import figure as of_command
from minitrain.errors import UserError
from minitrain.observe.clock import COLORS, Clock, Timeline
from minitrain.observe.palette import (
    FILLS,
    INK,
    INK_IN_THE_DARK,
    LINES,
    SHADE,
    TEXT_ON,
    figure,
)
from minitrain.parallel.pipeline_schedules import SCHEDULES
from tests.observe.colors import DARK, VISION, WHITE, blend, contrast, delta_e, lab

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
PAGES, INKS = (WHITE, DARK), (INK, INK_IN_THE_DARK)
TEXT, OBJECT = 4.5, 3.0  # WCAG 2.2's least contrast of text (1.4.3), and of lines and outlines (1.4.11)
APART = 12.0  # in L*: fills that a reader tells apart in gray
BETWEEN_LINES, BETWEEN_FILLS = 19.0, 16.0  # CIEDE2000, for every reader; 1 is just noticeable side by side


def least(colors: tuple[str, ...], vision: str) -> float:
    """Return the least difference between two of the colors."""
    return min(delta_e(lab(one, vision), lab(other, vision)) for one, other in combinations(colors, 2))


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 0, 0), (50, -1, 2), 2.3669),
    ],
)
def test_the_distance_against_the_paper(one: tuple, other: tuple, distance: float) -> None:
    """Rows of Table 1 in Sharma, Wu, Dalal (2005)."""
    assert delta_e(np.array(one), np.array(other)) == pytest.approx(distance, abs=5e-5)


def test_the_other_formulas() -> None:
    """Known values, and simulated color blindness leaves grays alone."""
    assert contrast("#ffffff", "#000000") == pytest.approx(21) and blend("#ffffff", "#000000", 0.5) == "#808080"
    assert lab("#7c7c7c") == pytest.approx([52.0, 0, 0], abs=0.05)
    assert all(lab("#7c7c7c", vision) == pytest.approx(lab("#7c7c7c"), abs=0.05) for vision in VISION)


def test_text_and_outlines_are_readable_on_both_pages() -> None:
    assert contrast(INK, WHITE) >= TEXT and contrast(INK_IN_THE_DARK, DARK) >= TEXT
    assert min(contrast(ink, page) for ink in INKS for page in PAGES) >= 4.0, "a theme that is not the page's"
    assert {fill: contrast(fill, text) >= TEXT for fill, text in TEXT_ON.items()} == dict.fromkeys(FILLS, True)


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_visible_on_both_pages(line: str) -> None:
    assert min(contrast(line, page) for page in PAGES) >= OBJECT


@pytest.mark.parametrize("vision", VISION)
def test_colors_are_distinct(vision: str) -> None:
    assert all(least((*LINES, ink), vision) >= BETWEEN_LINES for ink in INKS)
    assert all(least((*FILLS, ink), vision) >= BETWEEN_FILLS for ink in INKS)


def test_fills_are_distinct_in_gray() -> None:
    """They darken from the first to the last, and neither outline is lost on one."""
    L = [lab(fill)[0] for fill in FILLS]
    assert min(-np.diff(L)) >= APART
    assert min(abs(lab(ink)[0] - one) for ink in INKS for one in L) >= APART
    for page, ink in zip(PAGES, INKS, strict=True):
        shade = lab(blend(ink, page, SHADE))[0]
        assert min(abs(shade - lab(color)[0]) for color in (page, FILLS[2])) >= APART, "bars on a shade"


# Pictures -------------------------------------------------------------------------------------------------------------


def size(element: ElementTree.Element) -> list[float]:
    """Return width and height of an SVG's rectangle or path, in its units; percentages are infinite."""
    if "d" in element.attrib:
        points = np.array([float(x) for x in re.findall(r"-?[\d.]+", element.attrib["d"])] or [0.0, 0.0])
        return np.ptp(points.reshape(-1, 2), axis=0).tolist()
    return [math.inf if "%" in x else float(x) for x in (element.get("width", "0"), element.get("height", "0"))]


def painted(element: ElementTree.Element) -> list[str]:
    """Return the element's own fill and stroke, as far as it has them, the fill first."""
    styled = dict(re.findall(r"(fill|stroke): ?([^;]+)", element.get("style", "")))
    return [color for name in ("fill", "stroke") for color in [styled.get(name, element.get(name))] if color]


def black(element: ElementTree.Element) -> list[str]:
    """Return the texts below the element that inherit no color."""
    if painted(element):
        return []
    words = "".join(element.itertext()).strip()
    return [words] if element.tag == f"{SVG}text" else [text for child in element for text in black(child)]


def flaws(svg: str) -> list[str]:
    """Return what is wrong with a picture: its background, text that is no text, colors outside the palette."""
    root, found = ElementTree.fromstring(svg), []
    used = {color for element in root.iter() for color in painted(element)}
    known = {INK, *LINES, *FILLS, *TEXT_ON.values(), "none"}
    found += [f"{color} is not in the palette" for color in sorted(used - known) if not color.startswith("url(")]
    alphas = {float(alpha) for alpha in re.findall(r"opacity[:=] ?\"?([\d.]+)", svg)}
    found += [
        f"opacity {alpha:g} makes a color that is not in the palette" for alpha in alphas - {SHADE, 1, 0}
    ]  # 0: unseen
    found += [f"{text!r} is black, as nobody gave it a color" for text in black(root)]
    found += ["it has no text"] * (root.find(f".//{SVG}text") is None)
    found += ["it has pixels"] * (root.find(f".//{SVG}image") is not None)
    found += ["it does not follow a dark theme"] * (f"fill: {INK_IN_THE_DARK}" not in svg)
    canvas = [float(x) for x in root.attrib["viewBox"].split()[2:]] if "viewBox" in root.attrib else size(root)
    clips = [shape for clip in root.iter(f"{SVG}clipPath") for shape in clip]  # not painted
    for element in (*root.iter(f"{SVG}rect"), *root.iter(f"{SVG}path")):
        large = all(side > 0.3 * whole for side, whole in zip(size(element), canvas, strict=True))  # of one panel
        if large and painted(element)[:1] != ["none"] and element not in clips:
            found.append(f"it has a background: {painted(element)}")
    return found


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


LESSONS = sorted((ROOT / "lessons").glob("*/figures/*.svg"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.parts[-3])
def test_a_lessons_picture(path: Path) -> None:
    assert flaws(path.read_text("utf-8")) == []


def drawn(path: Path, draw: Any) -> str:
    """Return the SVG that a command writes next to its numbers."""
    of_command.write(path / "x.json", [], draw)
    return (path / "x.svg").read_text("utf-8")


COMMANDS: dict[str, Any] = {
    "lr-range": lambda axes: lr_range.draw([0.1, 0.2, 0.3], [3.0, 1.0, 2.0], [3.0, 2.0, 2.0], 0.2, axes),
    "schedules": lambda axes: small_runs.draw({f"run {i}": [2.0, 1.0 + i] for i in range(9)}, axes),
    "precision": lambda axes: compare_precision.draw_scales({"static": [1.0, 2.0], "dynamic": [4.0, 8.0]}, axes),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_picture(name: str, tmp_path: Path, matplotlib: None) -> None:
    assert flaws(drawn(tmp_path, COMMANDS[name])) == []


def test_nine_curves_look_different(tmp_path: Path, matplotlib: None) -> None:
    """Read from the picture: no two have color and dashes in common; of the first four, none has either."""
    paths = re.findall(r'clip-path="[^"]+" style="(fill: none; stroke[^"]+)"', drawn(tmp_path, COMMANDS["schedules"]))
    styles = [(*re.findall("#[0-9a-f]{6}", path), *re.findall("dasharray: ([^;]+)", path)) for path in paths]
    assert len(styles) == len(set(styles)) == 9
    assert len({style[0] for style in styles[:4]}) == len({style[1:] for style in styles[:4]}) == 4


def test_a_timeline() -> None:
    lanes = [Clock(), Clock()]
    for clock, schedule in zip(lanes, ("zb-h1", "1f1b"), strict=True):
        for what in SCHEDULES[schedule](0, 2, 3):
            clock.run(what)
    svg = Timeline([clock.lane for clock in lanes]).svg()
    assert flaws(svg) == [] and set(COLORS.values()) <= set(re.findall("#[0-9a-f]{6}", svg))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda axes: axes.plot([1, 2], color="orange"), "#ffa500 is not in the palette"),
        (lambda axes: axes.bar(1, 1, color=FILLS[0], alpha=0.5), "opacity 0.5 makes a color"),
        (lambda axes: axes.text(0, 0, "here", color="black"), "'here' is black"),
        (lambda axes: axes.imshow([[1, 2]]), "it has pixels"),
        (lambda axes: axes.set_facecolor(FILLS[0]), "it has a background"),
        (lambda axes: (axes.remove(), axes.set_axis_off()), "it has no text"),
    ],
    ids=["a color", "a mixture", "black text", "pixels", "a background", "no text"],
)
def test_a_flaw_is_seen(spoil: Any, says: str, tmp_path: Path, matplotlib: None) -> None:
    path = tmp_path / "x.svg"
    with figure(path) as axes:
        spoil(axes)
    assert says in "\n".join(flaws(path.read_text("utf-8")))


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_every_format(ending: str, tmp_path: Path, matplotlib: None) -> None:
    """A notebook's backend stays what it was."""
    from matplotlib import get_backend

    backend, path = get_backend(), tmp_path / f"x.{ending}"
    with figure(path) as axes:
        axes.plot([1, 2])
    assert path.stat().st_size > 1000 and get_backend() == backend


def test_the_page_shows_through(tmp_path: Path, matplotlib: None) -> None:
    from matplotlib.image import imread

    with figure(tmp_path / "x.png") as axes:
        axes.plot([1, 2])
    opacity = imread(tmp_path / "x.png")[..., 3]
    assert opacity[0, 0] == 0 and np.mean(opacity == 0) > 0.9


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"), figure(tmp_path / "x.svg"):
        pass


def test_only_the_palette_names_colors() -> None:
    """A picture that no test draws can still not have a color of its own."""
    named = re.compile(r"""["'](#[0-9a-fA-F]{3,8}|C\d|tab:\w+)["']|(color|colors|cmap)=["']""")
    files = [*(ROOT / "minitrain").rglob("*.py"), *(ROOT / "lessons").rglob("*.py")]
    found = [str(path) for path in files if path.name != "palette.py" and named.search(path.read_text("utf-8"))]
    assert found == []
