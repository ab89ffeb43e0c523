"""Write a lesson as a notebook, which runs cell by cell, without mpirun: its ranks are threads of the kernel.

It has the page's sections, in their order. A command that runs lesson.py becomes a cell that does the same, and the
picture a cell that shows it. The cells of lesson.py follow the section "The code". An exercise becomes two cells: its
stub, and its check.
"""

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from .manifest import Exercise, Lesson
from .numbers import individual
from .stubs import exercise_cell

SHOWN = re.compile(r"(^```.*?^```\n|^!\[.*?\]\(.*?\)\n)", re.MULTILINE | re.DOTALL)  # quoted code, outputs, the picture
COMMAND = re.compile(r"```console\n\$ (?:mpirun -n (\d+) )?python lessons/\S+/lesson\.py([^|\n]*)")
PROGRAM = re.compile(r"`mpirun -n (\d+) python lessons/\S+/programs\.py (\w+)`")
BULLET = re.compile(r"^- (\*\*\d\d\.\d\*\*.*?)(?=^- |^$|\Z)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]+\)")  # to a file, which a notebook somewhere else does not find

TOP = """
This notebook is the lesson's page. Run its cells in order. The ranks are threads of one process, so you need neither
mpirun nor mpi4py. The commands on the page are for a terminal.
"""
SETUP = """from importlib.util import find_spec

from IPython.display import SVG, display

from minitrain.comm import threads
from minitrain.lessons.here import check_here
"""
PICTURE = """
figure_option = ["--figure", "{name}"] if find_spec("matplotlib") else []  # makes a run draw"""
EXERCISES = """## Exercises

Each exercise has two cells. Write the function in the first one and run it; the second one checks it. A check sees
nothing but the first cell, so the imports and helpers of your function belong there, too. If this notebook is in your
folder of exercises, a cell that passes is put into exercise.py, which is the file to hand in.

An exercise may define a function that the experiment also uses. To run the experiment after that, first run the cells
of lesson.py again.
"""

Cells = Iterator[tuple[str, str]]  # ("markdown" or "code", text)


def write(lesson: Lesson, path: Path, numbers: str = "") -> None:
    """Write the lesson's notebook, for a student with these numbers. Raise ImportError without nbformat."""
    import nbformat  # here, because only this command needs it

    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    book = nbformat.v4.new_notebook(
        cells=[make[kind](text, id=f"cell-{i}") for i, (kind, text) in enumerate(merged(cells(lesson, numbers)))],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(book, path)


def merged(all_cells: Cells) -> Cells:
    """Join texts that follow one another, except at a heading; leave out empty cells."""
    kept: list[tuple[str, str]] = []
    for kind, text in all_cells:
        if kind == "markdown" and kept and kept[-1][0] == "markdown" and not text.startswith("#"):
            kept[-1] = (kind, kept[-1][1] + text)
        elif text.strip():
            kept.append((kind, text))
    yield from ((kind, text.strip()) for kind, text in kept)


def cells(lesson: Lesson, numbers: str = "") -> Cells:
    """Yield the cells of all sections."""
    top, *sections = re.split("^(?=## )", (lesson.folder / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    yield from shown(lesson, top)
    yield "markdown", TOP
    for section in sections:
        of_exercises = section.startswith("## Exercises\n")
        yield from exercises(lesson, section, numbers) if of_exercises else shown(lesson, section)
        if section.startswith("## The code\n"):
            yield from code(lesson)


def shown(lesson: Lesson, section: str) -> Cells:
    """Yield a section's texts, its runs and its picture."""
    for part in SHOWN.split(section):
        if command := COMMAND.match(part):
            yield "code", run(lesson, *command.groups())
        elif part.startswith("!["):
            yield "code", picture(lesson, part)
        elif part.startswith("```"):
            yield "markdown", re.sub(r"^```(\w+).*", r"```\1", part)  # without the name of the quoted function
        else:
            text = PROGRAM.sub(r"`threads.run(\1, programs.\2)`, in a cell after those of lesson.py", part)
            yield "markdown", re.sub("In the folder of the clone:$", "", LINK.sub(r"\1", text), flags=re.MULTILINE)


def code(lesson: Lesson) -> Cells:
    """Yield the cells of lesson.py but the last one, which reads the command line."""
    yield "markdown", "### lesson.py\n\nFirst, what a notebook needs; then the lesson's code, to run and to change."
    yield "code", SETUP if lesson.jobs else SETUP + PICTURE.format(name=figure(lesson).name)
    _, *parts, _ = re.split("^# %% ", (lesson.folder / "lesson.py").read_text("utf-8"), flags=re.MULTILINE)
    yield from (("code", f"# {part}") for part in parts)


def run(lesson: Lesson, ranks: str | None, words: str) -> str:
    """Return a cell that runs the experiment as the command does."""
    options = [f'"{word}"' for word in shlex.split(words)]
    options += ["*figure_option"] * (not lesson.jobs)
    first = f"options = arguments([{', '.join(options)}])  # as on the command line"
    first = first.replace("[*figure_option]", "figure_option")
    if ranks is None:
        return f"{first}\nrun(options)"
    if lesson.jobs:
        return f"{first}\nthreads.run({ranks}, lambda world: run(world, options, jobs=False));  # jobs need mpirun"
    return f"{first}\nthreads.run({ranks}, lambda world: run(world, options));"


def picture(lesson: Lesson, image: str) -> str:
    """Return a cell that shows the picture of the last run, or, if that needs jobs, the page's."""
    about = re.sub(r"!\[(.*)\].*\n", r"# \1", image)
    if lesson.jobs:
        path = f'f"{{COURSE}}/{figure(lesson).relative_to(lesson.folder.parent).as_posix()}"'
        return f"{about}\nfrom minitrain.lessons.course import COURSE\n\nSVG(filename={path})  # drawn with mpirun"
    name = figure(lesson).name
    return f"""{about}
if figure_option:
    display(SVG(filename="{name}"))
else:
    print("The picture needs matplotlib: pip install matplotlib. Then run all cells again.")"""


def figure(lesson: Lesson) -> Path:
    """Return the path of the page's picture."""
    (path,) = (lesson.folder / "figures").iterdir()
    return path


def exercises(lesson: Lesson, section: str, numbers: str) -> Cells:
    """Yield for each exercise its text, its stub and its check. What else the section has comes first."""
    yield "markdown", EXERCISES
    by_id = {exercise.id: individual(exercise, numbers) for exercise in lesson.exercises}
    own = f', "{numbers}"' if numbers else ""
    *_, end = BULLET.split(section)
    yield from shown(lesson, end)
    for bullet in BULLET.findall(section):
        chosen = [by_id[name] for name in re.findall(r"\*\*(\d\d\.\d)\*\*", bullet)]
        text = re.sub("^  ", "", bullet, flags=re.MULTILINE).replace("in your `exercise.py`", "below")
        yield "markdown", f"### {', '.join(e.id for e in chosen)}\n\n{text.partition(' ')[2]}\n"
        yield "markdown", "\n".join(hint for exercise in chosen for hint in hints(exercise))
        for exercise in chosen:
            yield "code", exercise_cell(exercise)
            yield "code", f'check_here("{exercise.id}", {exercise.function}{own})'


def hints(exercise: Exercise) -> Iterator[str]:
    """Yield the hints, each folded."""
    for i, hint in enumerate(exercise.hints, 1):
        text = html.escape(hint, quote=False)
        yield f"<details><summary>{exercise.id}, hint {i} of {len(exercise.hints)}</summary>{text}</details>"
