"""Numbers and lists in the texts that no command prints are compared with their sources."""

import re
from collections.abc import Callable
from typing import get_args

import pytest

from minitrain.commands.compare_precision import TASKS
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import LearningRates
from minitrain.commands.small_runs import CompareOptions
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.data.text import load_text
from minitrain.fused import IGNORE
from minitrain.lessons import check
from minitrain.lessons.course import COURSE
from minitrain.lessons.manifest import LESSONS, exercises, written
from minitrain.parallel.pipeline_schedules import SCHEDULES
from tests.bugs.museum import exhibits
from tests.data import derive
from tests.equivalence.cover import cases
from tests.equivalence.harness import Case

ROOT = COURSE.parent
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "eighteen"]
VALUES = [*range(1, 13), 18]
PROGRAMS = "lessons/programs/README.md"
DATA = "minitrain/data/README.md"


def text(path: str) -> str:
    """Return the text as one line, so that sentences may wrap anywhere."""
    return " ".join((ROOT / path).read_text("utf-8").split())


def value(told: str) -> float:
    word = told.lower()
    return VALUES[WORDS.index(word)] if word in WORDS else float(told.replace(",", ""))


def updates(batch: int) -> int:
    """Return the updates per epoch of the programs."""
    return ArrayLoader(*split_digits(*load_digits(), seed=1)[0], batch=batch, seed=1).batches


TOLD: list[tuple[str, str, Callable[[], float]]] = [
    ("README.md", r"(\w+) lessons are planned", lambda: len(LESSONS)),
    ("README.md", r"planned and (\w+) are written", lambda: len(written())),
    ("README.md", r"The GPT \(([\d,]+) parameters\)", lambda: TrainConfig().gpt(len(set(load_text()))).parameters),
    ("README.md", r"What the GPT .* wrote after ([\d,]+) updates", lambda: TrainConfig().optimizer.steps),
    ("README.md", r"among them (\w+) wrong ways to do data", lambda: sum(name[:2] == "17" for name in exhibits())),
    ("README.md", r"digits and (\d+) updates from", lambda: CompareOptions("schedules").updates),
    ("README.md", r"updates from (\w+) starts", lambda: CompareOptions("schedules").seeds),
    ("README.md", r"gradients are ([\d,]+) times smaller", lambda: TASKS["constructed"]),
    ("README.md", r"## The (\w+) programs", lambda: len(list((COURSE / "programs").glob("*.py")))),
    ("README.md", r"`minitrain.IGNORE` \((-\d+)\)", lambda: IGNORE),
    ("lessons/README.md", r"# The course (\w+) lessons", lambda: len(LESSONS)),
    ("lessons/README.md", r"(\w+) of them are written so far", lambda: len(written())),
    ("lessons/README.md", r"Then come (\w+) or \w+ exercises", lambda: min(len(x.exercises) for x in written())),
    ("lessons/README.md", r"Then come \w+ or (\w+) exercises", lambda: max(len(x.exercises) for x in written())),
    ("lessons/README.md", r"after (\w+) seconds it says where", lambda: check.LIMIT),
    ("lessons/README.md", r"`hint` helps in (\w+) steps", lambda: {len(e.hints) for e in exercises()}.pop()),
    (PROGRAMS, r"# The (\w+) programs", lambda: len(list((COURSE / "programs").glob("*.py")))),
    (PROGRAMS, r"data (\d+) images to learn from", lambda: len(split_digits(*load_digits(), seed=1)[0][0])),
    (PROGRAMS, r"learn from, (\d+) held out", lambda: len(split_digits(*load_digits(), seed=1)[1][0])),
    (PROGRAMS, r"batches of 32 an epoch has (\d+) updates", lambda: updates(32)),
    (PROGRAMS, r"batches of 128 it has (\d+),", lambda: updates(128)),
    (DATA, r"plays: ([\d,]+) characters", lambda: len(load_text())),
    (DATA, r"characters, (\d+) distinct", lambda: len(set(load_text()))),
    (DATA, r"\| (\w+) plays:", lambda: len(derive.PLAYS)),
    (DATA, r"(\w+) slips of the edition", lambda: len(derive.SLIPS)),
    (DATA, r"\| ([\d,]+) images of handwritten digits", lambda: len(load_digits()[0])),
]


@pytest.mark.parametrize(("path", "sentence", "true"), TOLD, ids=[f"{path}: {said}" for path, said, _ in TOLD])
def test_a_number_is_true(path: str, sentence: str, true: Callable[[], float]) -> None:
    found = re.search(sentence, text(path), re.IGNORECASE)
    assert found, f"{path} has no sentence like {sentence!r}"
    assert value(found[1]) == true(), f"{path} says {found[0]!r}; it is {true()}"


def test_the_table_of_lessons_is_the_manifest() -> None:
    """The table has the manifest's order, sentences and prerequisites, and the lessons that exist."""
    rows = re.findall(
        r"^\| (\[?)(\d\d) ([^|]*?) \| ([^|]*) \| ([^|]*) \|$", (COURSE / "README.md").read_text("utf-8"), re.M
    )
    assert [row[1] for row in rows] == [lesson.number for lesson in LESSONS]
    for (link, _, name, sentence, needs), lesson in zip(rows, LESSONS, strict=True):
        assert bool(link) == lesson.written == ("(not yet written)" not in name), name
        assert not link or f"]({lesson.folder.name}/README.md)" in name
        assert (sentence, needs) == (lesson.sentence, ", ".join(lesson.needs) or "-"), name


def test_the_rows_of_the_matrix_are_run() -> None:
    """The settings and columns match, whatever the last digits are on this machine."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("    strategy"))
    columns = "strategy mesh comm optimizer dtype k clip rc loss grad param bytes memory ok"
    assert " ".join(lines[heading].split()) == columns
    rows = [line.split()[:8] for line in lines[heading + 1 : lines.index("", heading)]]
    assert f"{WORDS[len(rows) - 1].capitalize()} rows of `make matrix`" in text("README.md")
    run = [settings_of(n, case) for n, case in cases(full=False) if case.layout == "dp"]
    assert [row for row in rows if row not in run] == []


def settings_of(ranks: int, case: Case) -> list[str]:
    """Return the settings as the matrix shows them."""
    suffix = "+scale" * bool(case.scaler) + "+pad" * case.ignore
    settings = [case.comm, case.optimizer, case.dtype, case.accumulate, case.clip or "-", case.recompute or "-"]
    return [case.strategy + suffix, f"dp{ranks}", *map(str, settings)]


def test_all_schedules_are_named() -> None:
    told = re.search(r"of the update number: (.*?)\.", text("README.md"))
    assert told
    names = told[1].replace("in steps", "step").replace("inverse time", "inverse-time")
    names = names.replace("cosine with and without restarts", "cosine, cosine-restarts")
    assert set(names.split(", ")) == set(get_args(LearningRates))


def test_all_plays_are_named_in_their_order() -> None:
    told = re.search(r"In this order: (.*?)\.", text(DATA))
    assert told
    names = [play.lower().replace("'", "").replace(" ", "_") for play in told[1].split("; ")]
    first = [re.sub(r"^(a|the|king)_", "", name) for name in names]
    assert first == [*derive.PLAYS]


def test_drawn_schedules_are_offered() -> None:
    drawn = re.findall(r"^(\S+), 4 stages", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert drawn and set(drawn) <= set(SCHEDULES)


def test_every_folder_of_the_package_is_in_the_list_of_files() -> None:
    listed = re.findall(r"\]\((minitrain/[\w/.]+)\)", (ROOT / "README.md").read_text("utf-8"))
    folders = [path.name for path in (ROOT / "minitrain").iterdir() if (path / "__init__.py").exists()]
    for folder in folders:
        assert any(entry.startswith(f"minitrain/{folder}") for entry in listed), f"{folder}/ is not in README.md"
