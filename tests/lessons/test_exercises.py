"""The checker: stubs fail, right solutions pass, every wrong one fails with a message that names its mistake."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.lessons import check as checking
from minitrain.lessons import worker
from minitrain.lessons.check import check
from minitrain.lessons.manifest import Exercise, Mutant, exercises, written
from minitrain.lessons.report import Reports
from minitrain.lessons.stubs import exercise_cell, exercise_file, place, replaced, source, stub
from tests.lessons.together import checked, examined, parameters
from tests.tiers import full

EVERY = exercises()
KNOWN = [(e, m) for e in EVERY for m in e.mutants() if not m.says]
FIRST = [next(known) for _, known in groupby(KNOWN, lambda pair: pair[0].id)]
STARTED = [(e, m) for e, m in FIRST if e.id in ("03.1", "07.3", "14.2")]
QUICK = ("07.2", "10.1")
LATER = ("03.1", "14.2")  # a subset of these
COMPARED = [pair if pair in FIRST else full(*pair) for pair in KNOWN]
UNUSUAL = [(e, path) for e in EVERY for path in e.also_right()]
ONE_UNUSUAL = [next(solutions) for _, solutions in groupby(UNUSUAL, lambda pair: pair[0].lesson.number)]
SEVERAL = [(e, m) for e, m in FIRST if e.ranks > 1]  # for a single rank, a process proves what a thread does
EVER_RUN = cache(worker.as_threads)


def ids(values: list) -> list[str]:
    return [f"{e.id}-{m.path.stem}" for e, m in values]


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, Path], Future[Reports]]]:
    """Check the known solutions of all selected tests in two processes."""
    wanted = []
    for given in parameters(request):
        file = given["mutant"].path if "mutant" in given else given.get("solution")
        wanted += [(given["exercise"].id, file)] if file else []
    with checked(wanted, workers=2) as futures:
        yield futures


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, ahead: dict[tuple[str, Path], Future[Reports]]) -> None:
    """Run checks with threads as ranks: mpirun would take many minutes for hundreds of solutions."""

    def as_threads(exercise: Exercise, file: Path, limit: float) -> Reports:
        known = ahead.get((exercise.id, file))
        return EVER_RUN(exercise, file, limit) if known is None else known.result()

    def run(exercise: Exercise, file: Path, folder: Path, *_: object) -> checking.Output:
        for rank, report in as_threads(exercise, file, checking.LIMIT).items():
            (folder / f"rank_{rank}.json").write_text(json.dumps({**report, "printed": []}), "utf-8")
        return checking.Output()

    def cause(exercise: Exercise, reports: Reports, *_: object) -> str:
        return worker.diagnose(exercise, reports, checking.LIMIT)

    monkeypatch.setattr(worker, "as_threads", as_threads)
    monkeypatch.setattr(checking, "_run", run)
    monkeypatch.setattr(checking, "_cause", cause)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.id)
def test_the_stub_fails_and_the_model_solution_passes(exercise: Exercise, tmp_path: Path) -> None:
    """The lesson's other functions stay unsolved. (In processes: test_processes_accept_the_model_solution.)"""
    file = tmp_path / "exercise.py"
    file.write_text(exercise_file(exercise.lesson), "utf-8")
    unsolved = check(exercise, file)
    assert unsolved.state == "open", unsolved
    file.write_text(replaced(file.read_text("utf-8"), exercise, source(exercise)), "utf-8")
    solved = check(exercise, file)
    assert solved.state == "passed", solved


@pytest.mark.parametrize(
    ("exercise", "mutant"), [full(*pair) if pair[0].id in LATER else pair for pair in STARTED], ids=ids(STARTED)
)
def test_a_wrong_solution_is_named(exercise: Exercise, mutant: Mutant) -> None:
    """Check one mutant of each kind, on one rank and on four, as a student's solution would be."""
    verdict = check(exercise, mutant.path, as_given=True)
    assert verdict.state == "failed" and verdict.cause == mutant.mistake, verdict


@pytest.mark.parametrize(
    ("exercise", "world"),
    [(e, e.ranks) if e.id in QUICK else full(e, e.ranks) for e, _ in SEVERAL],
    indirect=["world"],
    ids=[f"{e.id}-{e.ranks} ranks" for e, _ in SEVERAL],
)
def test_processes_accept_the_model_solution(exercise: Exercise, world: Communicator, tmp_path: Path) -> None:
    file = tmp_path / "exercise.py"
    file.write_text(exercise_file(exercise.lesson, solved=True), "utf-8")
    found = examined(world, exercise, file)
    assert all(report["ok"] for report in found.values()), found


@pytest.mark.parametrize(
    ("exercise", "mutant", "world"),
    [(e, m, e.ranks) if e.id in QUICK else full(e, m, e.ranks) for e, m in SEVERAL],
    indirect=["world"],
    ids=[f"{e.id}-{m.path.stem}-{e.ranks} ranks" for e, m in SEVERAL],
)
def test_processes_find_what_threads_find(exercise: Exercise, mutant: Mutant, world: Communicator) -> None:
    """Exercises with the same number of ranks share a job."""
    wrong = examined(world, exercise, mutant.path)
    assert world.rank or worker.diagnose(exercise, wrong, checking.LIMIT) == mutant.mistake, wrong


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("exercise", "mutant"), COMPARED, ids=ids(KNOWN))
def test_every_wrong_solution_is_named(exercise: Exercise, mutant: Mutant) -> None:
    verdict = check(exercise, mutant.path, as_given=True)
    assert verdict.state == "failed", "it survives"
    assert verdict.cause == mutant.mistake, verdict


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("exercise", "solution"),
    [pair if pair in ONE_UNUSUAL else full(*pair) for pair in UNUSUAL],
    ids=[f"{e.id}-{path.stem}" for e, path in UNUSUAL],
)
def test_an_unusual_solution_passes(exercise: Exercise, solution: Path) -> None:
    """The first line of the solution's docstring says what is unusual."""
    assert Mutant(solution).mistake
    verdict = check(exercise, solution, as_given=True)
    assert verdict.state == "passed", verdict


@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.id)
def test_an_exercise_is_complete(exercise: Exercise) -> None:
    mistakes = [mutant.mistake for mutant in exercise.mutants()]
    assert len(mistakes) >= {"I": 3, "B": 2, "P": 0}[exercise.kind] and all(mistakes)
    assert len(set(mistakes)) == len(mistakes)
    assert all(hint.strip() for hint in exercise.hints)
    if exercise.planted:
        assert (exercise.lesson.folder / "mutants" / exercise.planted).exists()
        assert stub(exercise) != source(exercise)


def test_a_file_of_stubs_imports_what_it_uses(tmp_path: Path) -> None:
    """Also for annotations in quotes. F821 is an undefined name, F811 a second definition."""
    for lesson in written():
        for solved in (False, True):
            (tmp_path / f"exercise_{lesson.number}_{solved}.py").write_text(exercise_file(lesson, solved), "utf-8")
            for e in lesson.exercises:
                (tmp_path / f"cell_{e.id}_{solved}.py").write_text(exercise_cell(e, solved), "utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lesson", written(), ids=lambda lesson: lesson.number)
def test_two_to_four_exercises(lesson) -> None:  # type: ignore[no-untyped-def]
    assert 2 <= len(lesson.exercises) <= 5
    names = [exercise.function for exercise in lesson.exercises]
    assert len(set(names)) == len(names), "one file cannot define two functions of one name"
    compile(exercise_file(lesson), "exercise.py", "exec")
    used = {m.path for e in lesson.exercises for m in e.mutants()}
    assert used == set((lesson.folder / "mutants").glob("*.py")), "a mutant belongs to no exercise"
    unusual = {path for e in lesson.exercises for path in e.also_right()}
    assert unusual == set((lesson.folder / "also_right").glob("*.py")), "an unusual solution belongs to no exercise"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "def shard_of(n, parts, i):\n    return n[i]\n",
            "TypeError: 'int' object is not subscriptable at exercise.py:2",
        ),
        ("def shard_of(n, parts, i):\n    return (\n", "exercise.py:2: '(' was never closed"),
        ("def shard(n, parts, i):\n    return 0\n", "there is no function shard_of; lessons reset 07.1"),
        full("import nowhere\ndef shard_of(n, parts, i):\n    return 0\n", "No module named 'nowhere'"),
        full("def shard_of(n, parts, i):\n    exit(0)\n", "the program was ended (sys.exit) at exercise.py:2"),
        full("def shard_of(n, parts, i):\n    while True: pass\n", "not done after"),
        full("import os\ndef shard_of(n, parts, i):\n    os._exit(0)\n", "was ended (os._exit) (exercise.py:3)"),
        full("import os\ndef shard_of(n, parts, i):\n    os.kill(os.getpid(), 9)\n", "a result: a crash of Python"),
        full("def shard_of(n, parts, i):\n    while True: print('a' * n)\n", "(exercise.py:2), after printing"),
        full(
            "import os\ndef shard_of(n, parts, i):\n    while True: os.write(2, b'a' * 9000)\n",
            "characters came past sys.stdout",
        ),
    ],
)
def test_a_broken_file(body: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 0.5 if "True: pass" in body else 1.2 if "while" in body else 30.0  # it must have printed by then
    monkeypatch.setattr(checking, "LIMIT", limit)
    file = tmp_path / "exercise.py"
    file.write_text(body, "utf-8")
    verdict = check(next(e for e in EVERY if e.id == "07.1"), file)
    assert verdict.state == "failed" and says in verdict.sentence, verdict


def test_a_function_is_found_with_its_decorator() -> None:
    assert place("x = 1\n@cache\ndef f():\n    pass\ny = 2\n", "f") == (1, 4)
    with pytest.raises(LookupError, match="no function g"):
        place("x = 1\n", "g")
