"""A student's function in a process of its own: right solutions pass, wrong ones fail as before, cheats fail."""

import json
import re
import shutil
from itertools import groupby, islice
from pathlib import Path

import pytest

from minitrain.lessons import worker
from minitrain.lessons.apart import Nursery
from minitrain.lessons.check import LIMIT, check
from minitrain.lessons.course import COURSE
from minitrain.lessons.manifest import Exercise, exercises
from minitrain.lessons.report import Reports
from minitrain.lessons.stubs import exercise_file
from tests.lessons.together import BY_ID
from tests.tiers import full

JUDGED = [e for e in exercises() if not e.together]
UNUSUAL = [(e, path) for e in JUDGED for path in islice(e.also_right(), 1)]
UNLIKE = {  # wrong solutions that are something else in a process of their own
    "03.1 counter": "it calls the model solution",
    "06.1 counts_twice": "it counts its messages itself, which is ignored",
}
MUTANTS = [
    (e, m.path)
    for e in JUDGED
    for m in e.mutants()
    if not m.says and "mpi4py" not in m.path.read_text("utf-8") and f"{e.id} {m.path.stem[2:]}" not in UNLIKE
]
SOME = MUTANTS[::18]
QUICK = [next(of_one) for _, of_one in groupby(MUTANTS, lambda pair: pair[0].lesson.number)]
ONE_OF_EACH = ("02.2", "06.1", "07.1", "14.2")  # a callback, messages, numbers, records


def judged(nursery: Nursery, exercise: Exercise, file: Path) -> Reports:
    """Check a file with threads as ranks and the function apart, as `lessons grade` would."""
    found = worker.as_threads(exercise, file, 3 * LIMIT, nursery=nursery)
    return json.loads(json.dumps(found), object_hook=lambda it: {int(k) if k.isdigit() else k: it[k] for k in it})


def copied(file: Path, folder: Path) -> Path:
    """Return a copy: a function may read what is in its folder."""
    return Path(shutil.copy(file, folder / "exercise.py"))


def passes(found: Reports, exercise: Exercise) -> bool:
    return len(found) == exercise.ranks and all(report["ok"] for report in found.values())


# Solutions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exercise", [e if e.id in ONE_OF_EACH else full(e) for e in JUDGED], ids=lambda e: getattr(e, "id", "")
)
def test_the_model_solution_passes(exercise: Exercise, nursery: Nursery, tmp_path: Path) -> None:
    file = tmp_path / "exercise.py"
    file.write_text(exercise_file(exercise.lesson, solved=True), "utf-8")
    found = judged(nursery, exercise, file)
    assert passes(found, exercise), found


@pytest.mark.full
@pytest.mark.parametrize(("exercise", "solution"), UNUSUAL, ids=[f"{e.id}-{path.stem}" for e, path in UNUSUAL])
def test_an_unusual_solution_passes(exercise: Exercise, solution: Path, nursery: Nursery, tmp_path: Path) -> None:
    file = copied(solution, tmp_path)
    found = judged(nursery, exercise, file)
    assert passes(found, exercise), found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("exercise", "mutant"),
    [*QUICK, *(full(*pair) for pair in SOME if pair not in QUICK)],
    ids=lambda value: getattr(value, "id", getattr(value, "stem", "")),
)
def test_a_wrong_solution_fails_in_the_same_words(
    exercise: Exercise, mutant: Path, nursery: Nursery, tmp_path: Path
) -> None:
    """Which of the ranks raises first may vary, and what the others then say."""
    file = copied(mutant, tmp_path)
    one, other = worker.as_threads(exercise, file, LIMIT), judged(nursery, exercise, file)
    here, there = ({re.sub(r"\d+", "#", report["failure"]) for report in found.values()} for found in (one, other))
    assert here & there - {""}, f"{here} and {there}"


@pytest.mark.full
@pytest.mark.parametrize("id", ["05.4", "10.2"])
def test_the_processes_of_grade(id: str, tmp_path: Path) -> None:
    file = tmp_path / "exercise.py"
    file.write_text(exercise_file(BY_ID[id].lesson, solved=True), "utf-8")
    verdict = check(BY_ID[id], file, apart=True)
    assert verdict.state == "passed", verdict


# Cheats ---------------------------------------------------------------------------------------------------------------

REPORTS = """    for folder in Path(__file__).parents:
        for rank in range(4):
            report = dict(rank=rank, ok=True, failure="", signature=[], remarks=[], printed=[])
            (folder / f"rank_{rank}.json").write_text(json.dumps(report))
"""
CHEATS = {  # what stands before the function, its body
    "import": ("from {module} import {name} as model\n", "return model(*a, **k)"),
    "importlib": ("import importlib\n", "return getattr(importlib.import_module('{module}'), '{name}')(*a, **k)"),
    "sys.modules": (
        "import sys\n",
        "return next(getattr(m, '{name}') for n, m in list(sys.modules.items())"
        " if n != 'exercise' and hasattr(m, '{name}'))(*a, **k)",
    ),
    "gc": (
        "import gc\n",
        "return next(f for f in gc.get_objects() if getattr(f, '__name__', '') == '{name}'"
        " and f.__module__ != 'exercise')(*a, **k)",
    ),
    "frames": (
        "import sys\n",
        "frame = sys._getframe()\n    while 'report' not in frame.f_locals: frame = frame.f_back\n"
        "    type(frame.f_locals['report']).ok = True",
    ),
    "atexit": (f"import atexit, json\nfrom pathlib import Path\n@atexit.register\ndef end():\n{REPORTS}", "return 0"),
    "exit": (f"import json, os\nfrom pathlib import Path\ndef end():\n{REPORTS}", "end(); os._exit(0)"),
    "open": (
        "import minitrain\nfrom pathlib import Path\n",
        "space = dict(globals())\n    exec((Path(minitrain.__file__).parent / '{path}').read_text(), space)\n"
        "    return space['{name}'](*a, **k)",
    ),
    "numpy": (
        "import numpy as np\nnp.array_equal = np.allclose = lambda *a, **k: True\nnp.abs = lambda x: np.zeros(1)\n",
        "return a[0]",
    ),
    "subclass": (
        "class Right(float):\n    __eq__ = __le__ = __ge__ = lambda *a: True\n    __hash__ = float.__hash__\n",
        "return Right(0)",
    ),
    "planted": (
        "for name in ('hypothesis', 'tracemalloc', 'fractions', 'sqlite3'):\n"
        "    open(name + '.py', 'w').write('import os; os._exit(7)')\n",
        "return 0",
    ),
}


def cheat(exercise: Exercise, name: str) -> str:
    """Return an exercise.py in which every function cheats."""
    before, body = CHEATS[name]
    module, _, function = exercise.target.partition(":")
    if module in ("lesson", "check"):
        module = f"minitrain.lessons.course.{exercise.lesson.folder.name}.{module}"
    path = f"{module.removeprefix('minitrain.').replace('.', '/')}.py"
    text = f"{before}\ndef {function}(*a, **k):\n    {body}\n"
    for key, value in (("module", module), ("name", function), ("path", path)):
        text = text.replace(f"{{{key}}}", value)
    return text


@pytest.mark.parametrize(
    ("id", "name"),
    [
        *[("07.1", name) for name in CHEATS],
        *[full("02.3", name) for name in ("sys.modules", "gc", "frames", "open", "subclass")],
        *[full("06.2", name) for name in CHEATS],
        *[full(e.id, "import") for e in JUDGED if e.id not in ("06.2", "07.1")],
    ],
)
def test_a_cheat_fails(id: str, name: str, nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    file = tmp_path / "apart" / "exercise.py"
    file.write_text(cheat(BY_ID[id], name), "utf-8")
    found = judged(nursery, BY_ID[id], file)
    assert not any(report["ok"] for report in found.values()), found
    assert not list(tmp_path.glob("rank_*"))


def test_time_is_up(tmp_path: Path) -> None:
    """The sentence is that of `lessons check`."""
    file = tmp_path / "exercise.py"
    file.write_text("def shard_of(n, parts, i):\n    while True: print('a' * 10**5)\n", "utf-8")
    verdict = check(BY_ID["07.1"], file, apart=True, limit=0.8)
    assert re.search(r"rank 0 is at work \(exercise.py:2\), after printing [\d,]{9,} characters$", verdict.sentence)


def test_grade_runs_functions_apart(tmp_path: Path) -> None:
    """The cheat scores if the function runs in the process of the check."""
    file = tmp_path / "exercise.py"
    file.write_text(cheat(BY_ID["07.1"], "import"), "utf-8")
    assert check(BY_ID["07.1"], file).state == "passed"
    verdict = check(BY_ID["07.1"], file, apart=True)
    assert verdict.state == "failed" and "the model solution is not available here at exercise.py:4" in verdict.sentence


# What the texts say ---------------------------------------------------------------------------------------------------


def test_the_page_lists_what_is_checked_in_one_process() -> None:
    page = (COURSE / "TEACHING.md").read_text("utf-8")
    told = [line for line in page.splitlines() if re.match(r"\| \d\d\.\d \|", line)]
    assert told == [f"| {e.id} | {e.function} | {e.together} |" for e in exercises() if e.together]
    assert f"{len(JUDGED)} of the {len(exercises())} exercises" in page
