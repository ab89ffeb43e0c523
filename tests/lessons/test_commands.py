"""The student's command, starting from an empty folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from minitrain.lessons.check import Verdict
from minitrain.lessons.cli import main
from minitrain.lessons.manifest import exercises, written
from minitrain.lessons.stubs import replaced, source
from tests.lessons.together import copied_here


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a newly created student's folder."""
    made = tmp_path_factory.mktemp("fresh") / "mine"
    assert main(["init", str(made)]) == 0
    return made


@pytest.fixture
def folder(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a student's folder that is the working directory."""
    return copied_here(fresh, tmp_path, monkeypatch)


def test_init_makes_a_stub_for_every_exercise_and_keeps_what_is_there(folder: Path) -> None:
    for lesson in written():
        text = (folder / lesson.folder.name / "exercise.py").read_text("utf-8")
        assert all(f"def {exercise.function}(" in text for exercise in lesson.exercises)
    mine = folder / "07_data_parallel" / "exercise.py"
    mine.write_text("# mine\n", "utf-8")
    assert main(["init", str(folder)]) == 0 and mine.read_text("utf-8") == "# mine\n"


def test_a_day_of_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Work through open, hint, hint, show, solve, list, reset."""
    exercise = next(e for e in exercises() if e.id == "07.1")
    file = folder / "07_data_parallel" / "exercise.py"
    assert main(["check", "07.1"]) == 1 and "open" in capsys.readouterr().out
    for level in (1, 2, 3, 3):
        assert main(["hint", "07.1"]) == 0
        assert f"hint {level} of 3: {exercise.hints[level - 1][:30]}" in capsys.readouterr().out
    assert main(["show", "07.1"]) == 0 and "base, longer" in capsys.readouterr().out
    file.write_text(replaced(file.read_text("utf-8"), exercise, source(exercise)), "utf-8")
    assert main(["check", "7.1"]) == 0 and "ok" in capsys.readouterr().out
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "[#...]  " in shown and "next: " in shown and max(map(len, shown.splitlines())) <= 80
    state = json.loads((folder / ".lessons.json").read_text("utf-8"))
    assert state["07.1"] == {"passed": True, "hints": 3, "shown": True}
    solved = file.read_text("utf-8")
    assert main(["reset", "07.1"]) == 0
    assert "NotImplementedError" in file.read_text("utf-8")
    assert [p.read_text("utf-8") for p in file.parent.glob("exercise-*.py")] == [solved]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "99"], "there is no lesson '99'; there are"),
        (["check", "07.9"], "there is no exercise '07.9'; there are 07.1"),
        (["hint", "07"], "name one exercise: 07.1, 07.2"),
        (["check", "08"], "lesson 08 overlap is not yet written"),
        (["run", "07", "-n", "x"], "-n is 'x'"),
        (["run", "nothing"], "there is no lesson 'nothing'"),
        (["--dir", "..", "list"], "is no folder of exercises. Make one: lessons init"),
        (["grade", "/nowhere"], "is no folder of exercises"),
    ],
)
def test_mistakes(arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_damaged_memory_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".lessons.json").write_text("{", "utf-8")
    assert main(["list"]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_run_says_what_it_runs(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minitrain.lessons", "run", "07", "--steps", "5"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    first = done.stdout.splitlines()[0]
    assert first.startswith("$ mpirun -n 4 python ") and first.endswith("lesson.py --steps 5")


def test_selftest_keeps_what_it_replaces(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so before. Stubs and model solutions are not kept."""
    mine = folder / "07_data_parallel" / "exercise.py"
    mine.write_text("# mine\n", "utf-8")
    monkeypatch.setattr("minitrain.lessons.cli.check_all", lambda *_: print("checks") or 0)
    for _ in range(2):
        assert main(["selftest", str(folder)]) == 0
    (kept,) = folder.rglob("exercise-*.py")
    assert kept.read_text("utf-8") == "# mine\n" and "def shard_of(n" in mine.read_text("utf-8")
    begin = "selftest replaces every exercise.py in this folder by the model solutions."
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [begin, f"yours is kept: {mine} becomes {kept.name}", "checks"] and said[4:6] == [
        begin,
        "checks",
    ]


@pytest.mark.full
def test_selftest(folder: Path) -> None:
    """The selftest needs only what is installed: it runs in another process, in its own folder.

    It checks two exercises here, on four ranks and on one. Those of all lessons are checked under mpirun
    in test_exercises.py, in a shared job.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "from minitrain.lessons import cli, manifest; "
    code += "cli.exercises = lambda: manifest.BY_NUMBER['14'].exercises[:3:2]; cli.main(['selftest', 'FOLDER'])"
    done = subprocess.run(
        [sys.executable, "-c", code.replace("FOLDER", str(folder))],
        capture_output=True, text=True, timeout=300, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all 2 exercises passed"


def test_grades_in_files(folder: Path) -> None:
    file = folder / "07_data_parallel" / "exercise.py"
    chosen = next(e for e in exercises() if e.id == "07.4")
    file.write_text(replaced(file.read_text("utf-8"), chosen, source(chosen)), "utf-8")
    names = [f"--{form}={folder / form}" for form in ("json", "junit", "csv", "gradescope")]
    assert main(["grade", str(folder), "--lessons", "07.4,7.1", *names]) == 1
    rows = json.loads((folder / "json").read_text("utf-8"))
    assert [(r["id"], r["passed"], r["points"]) for r in rows] == [("07.1", False, 0), ("07.4", True, 10)]
    suite = ElementTree.fromstring((folder / "junit").read_text("utf-8"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert (folder / "csv").read_text("utf-8").splitlines()[1].startswith("mine,07.1,shard_of,I,False,0,10")
    tests = json.loads((folder / "gradescope").read_text("utf-8"))["tests"]
    assert [t["score"] for t in tests] == [0, 10]


def test_all_points(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("minitrain.lessons.grading.check", lambda exercise, file, **_: Verdict(exercise, "passed"))
    assert main(["grade", str(folder)]) == 0
    points = sum(exercise.points for exercise in exercises())
    assert f"{points} of {points} points" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["init", str(tmp_path / "file" / "mine")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lessons: cannot write or read ") and "file" in said and said.count("\n") == 1


def test_progress_survives_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / ".lessons.json").read_text("utf-8")

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["hint", "07.1"]) == 2
    assert capsys.readouterr().err == "lessons: cannot write or read a file: No space left on device\n"
    assert (folder / ".lessons.json").read_text("utf-8") == before and not (folder / ".lessons.partial").exists()
