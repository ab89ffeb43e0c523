"""`lessons grade`: a class, the order of its lines, weights, files, folders that are none, and hostile ones."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from minitrain.lessons import grading
from minitrain.lessons.check import Verdict
from minitrain.lessons.cli import main
from minitrain.lessons.confined import MARK
from minitrain.lessons.jobs import within
from minitrain.lessons.manifest import BY_NUMBER, Exercise, exercises
from minitrain.lessons.submissions import folders, receive
from tests.lessons import classes
from tests.processes import processes

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an exercise pass if its file contains its number, and be late if it contains "late" and its number."""

    def check(exercise: Exercise, file: Path, limit: float, **_: object) -> Verdict:
        words = file.read_text("utf-8").split()
        if f"late:{exercise.id}" in words or (f"slow:{exercise.id}" in words and limit == grading.LIMIT):
            time.sleep(0.1)
            return Verdict(exercise, "failed", "not done", late=True)
        if f"error:{exercise.id}" in words:
            raise ZeroDivisionError("oh\ud800")
        passed = exercise.id in words or f"slow:{exercise.id}" in words
        return Verdict(exercise, "passed" if passed else "failed", "" if passed else "no")

    monkeypatch.setattr(grading, "check", check)


def student(folder: Path, text: str, lesson: str = "07") -> Path:
    path = folder / BY_NUMBER[lesson].folder.name / "exercise.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return folder


@pytest.mark.usefixtures("quick")
def test_a_class(tmp_path: Path, capsys: Capture) -> None:
    """Lines come in the order given, totals are at the end, the status is 0."""
    student(tmp_path / "zoe", "07.1 07.2 07.3 07.4")
    student(tmp_path / "adam", "07.2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    paths = [str(tmp_path / name) for name in ("zoe", "adam", "notes.txt", "empty")]
    assert main(["grade", *paths, "--lessons", "07", "--jobs", "2", "--totals", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr()
    assert said.err == f"lessons: {tmp_path}/notes.txt is a plain file: skipped\n"
    assert said.out.splitlines() == [
        "zoe       40 of 40   07: 40",
        "adam      10 of 40   07: 10",
        "empty      0 of 40   07: 0  07_data_parallel/exercise.py: No such file or directory",
        "",
        "3 students, 1 with all points; mean 16.7 of 40",
        "mean by lesson: 07: 16.7 of 40",
    ]
    found = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text("utf-8"))))
    assert [(it["student"], it["points"], it["07"]) for it in found] == [
        ("zoe", "40", "40"),
        ("adam", "10", "10"),
        ("empty", "0", "0"),
    ]
    assert len({it["file 07"] for it in found}) == 3


@pytest.mark.usefixtures("quick")
def test_weights(tmp_path: Path, capsys: Capture) -> None:
    """They multiply: 07.1 is of kind I, 07.3 of kind B."""
    mine = student(tmp_path / "mine", "07.1 07.3")
    arguments = ["--weight", "7=2", "--weight=I=0.5", "--weight=07.3=0.25", f"--json={tmp_path / 'r.json'}"]
    assert main(["grade", str(mine), "--lessons", "07", *arguments]) == 1
    rows = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert [(it["id"], it["points"], it["of"]) for it in rows] == [
        ("07.1", 10, 10),
        ("07.2", 0, 10),
        ("07.3", 5, 5),
        ("07.4", 0, 20),
    ]
    assert "15 of 45 points" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_single_folder_gives_the_hash_of_what_was_checked(tmp_path: Path, capsys: Capture) -> None:
    mine = student(tmp_path / "mine", "07.1 07.2 07.3 07.4")
    (mine / ".lessons.json").write_text('{"07.2": {"shown": true}, "07.3": 1}', "utf-8")
    assert main(["grade", str(mine), "--lessons", "07"]) == 0
    said = capsys.readouterr().out
    assert f"SHA-256 of each exercise.py: 07: {digest(mine)}\n" in said and said.endswith("looked at 1 solution\n")


@pytest.mark.usefixtures("quick")
def test_late_checks_are_tried_again_and_end_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Passing late does not count against the folder. (Each late check takes 0.1 s here.)"""
    monkeypatch.setattr(grading, "PATIENCE", 0.55)
    stuck = " ".join(f"late:{exercise.id}" for exercise in exercises())
    names = {"slow": "slow:07.1 07.2 slow:07.3 07.4", "once": "late:07.1 07.2 07.3 07.4", "stuck": stuck}
    for name, text in names.items():
        for lesson in ("07", "10", "14"):
            student(tmp_path / name, text, lesson)
    paths = [str(tmp_path / name) for name in names]
    assert main(["grade", *paths, "--lessons", "07,10,14", "--json", str(tmp_path / "r")]) == 0
    rows = json.loads((tmp_path / "r").read_text("utf-8"))
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said[:3]] == ["40", "30", "0"]
    assert "stopped: too many checks" in said[2] and "stopped" not in said[1]
    cut = [it["id"] for it in rows if it["student"] == "stuck" and it["failure"].startswith("not checked: ")]
    assert cut == [exercise.id for exercise in exercises() if exercise.id[:2] in ("07", "10", "14")][6:]


@pytest.mark.usefixtures("quick")
def test_an_error_of_the_grader_costs_one_folder(tmp_path: Path, capsys: Capture) -> None:
    student(tmp_path / "a", "error:07.1 07.2")
    student(tmp_path / "b", "07.2")
    assert main(["grade", str(tmp_path / "a"), str(tmp_path / "b"), "--lessons", "07"]) == 0
    said = capsys.readouterr()
    assert said.err == "lessons: a: the grader failed: ZeroDivisionError: oh\\ud800\n"
    assert [line.split()[1] for line in said.out.splitlines()[:2]] == ["0", "10"]


@pytest.mark.usefixtures("quick")
def test_a_file_for_each_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x", "b/x", "b/y"):
        student(tmp_path / name, "07.1")
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "a/x", "b/x", "b/y", "--lessons", "07", "--gradescope", "r-{student}.json"]) == 0
    assert sorted(path.name for path in tmp_path.glob("r-*")) == ["r-a-x.json", "r-b-x.json", "r-y.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is no folder of exercises: it does not exist"),
        (["file"], "file: a plain file; give the students' folders, such as class/*/"),
        (["a", "--json", "no/such/folder"], "--json: cannot write no/such/folder: No such file or directory"),
        (["a", "--json", "a"], "--json: cannot write a: Is a directory"),
        (["a", "--json", "x", "--csv", "x"], "x would be written twice"),
        (["a", "b", "--gradescope", "x"], "--gradescope describes one student, and these are 2: write {student}"),
        (["a", "--weight", "07"], "--weight is '07'; write a number of 0 or more after ="),
        (["a", "--weight", "07=-1"], "--weight is '07=-1'; write a number"),
        (["a", "--weight", "07=nan"], "write a number"),
        (["a", "--weight", "08=1"], "'08' is no lesson, exercise or kind of those that are graded"),
        (["a", "--classroom", "x", "--weight", "07=0.25"], "--classroom takes whole points only"),
        (["a", "--jobs", "0"], "--jobs is 0; it must be a number of folders, 1 or more"),
        (["a", "--lessons", "99"], "there is no lesson '99'"),
    ],
)
def test_mistakes_are_named_before_the_checks(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grading, "check", None)
    Path("file").touch()
    for name in ("a", "b"):
        student(tmp_path / name, "07.1")
    assert main(["grade", *arguments]) == 2
    assert says in capsys.readouterr().err and not Path("x").exists()


def linked(folder: Path) -> None:
    (folder.parent / "other.py").write_text("07.1", "utf-8")
    (folder / "07_data_parallel").mkdir()
    (folder / "07_data_parallel" / "exercise.py").symlink_to("../../other.py")


def deeper(folder: Path) -> None:
    student(folder / "my-minitrain", "07.1")


def pipe(folder: Path) -> None:
    (folder / "07_data_parallel").mkdir()
    os.mkfifo(folder / "07_data_parallel" / "exercise.py")


def loop(folder: Path) -> None:
    (folder / "07_data_parallel").symlink_to("07_data_parallel")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (linked, "07_data_parallel/exercise.py: a link that leads out of the folder"),
        (deeper, "mine has no lessons' folders, but mine/my-minitrain has: give that folder"),
        (pipe, "07_data_parallel/exercise.py: not a file"),
        (loop, "07_data_parallel/exercise.py: "),
        (lambda folder: student(folder, "#" * 10**6 + "#"), "1,000,001 bytes; an exercise.py has at most 1,000,000"),
    ],
)
def test_a_folder_without_an_exercise(made: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    made(mine)
    submission = receive("mine", mine, [BY_NUMBER["07"]])
    assert not submission.files and says in submission.missing["07"] and submission.digest("07") == ""


@pytest.mark.parametrize("state", ["", "{", "[]", '{"07.1": 3}', "[" * 10**5, "\ud800"])
def test_what_a_student_remembers_may_be_anything(state: str, tmp_path: Path) -> None:
    student(tmp_path, "07.1")
    (tmp_path / ".lessons.json").write_bytes(state.encode("utf-8", "surrogatepass"))
    assert receive("mine", tmp_path, [BY_NUMBER["07"]]).shown == frozenset()


def test_names_of_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x", "b/x", "c"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "c")
    assert list(folders([Path("../a/x"), Path("../b/x"), Path(), Path("../a/x")])[0]) == ["../a/x", "../b/x", "c"]


GRADE = "import sys; from minitrain.lessons import cli, grading; grading.LIMIT, grading.AGAIN = {limit}, 2 * {limit}; "
GRADE += "sys.exit(cli.main(['grade', *sys.argv[1:]]))"


def graded(
    folder: Path, *arguments: str, seconds: float, limit: float = grading.LIMIT
) -> tuple[subprocess.CompletedProcess[str], dict[str, float]]:
    """Grade a class in a process of its own. Return how that ended, and student -> points. limit: seconds for a check.

    Raise TimeoutExpired after `seconds`.
    """
    code = GRADE.format(limit=limit)
    command = [sys.executable, "-c", code, *map(str, sorted(folder.iterdir())), *arguments]
    table = folder.with_suffix(".csv")
    done = subprocess.run([*command, f"--totals={table}"], capture_output=True, text=True, timeout=seconds)
    return done, {it["student"]: float(it["points"]) for it in csv.DictReader(table.open(encoding="utf-8", newline=""))}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_students(tmp_path: Path) -> None:
    """One is right, one exits: each gets its own points. Nobody's folder changes."""
    folder = tmp_path / "class"
    right = classes.perfect([BY_NUMBER["07"]], folder / "right", 1) // 4
    classes.hostile([BY_NUMBER["07"]], folder / "wrong", 1)
    before = content(folder)
    done, points = graded(folder, "--lessons=07.1", "--jobs=2", seconds=60)
    assert done.returncode == 0 and points == {"right": right, "wrong": 0}, done.stdout + done.stderr
    assert content(folder) == before


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt(number: int, tmp_path: Path) -> None:
    """Nothing is left, and the file has what was graded."""
    classes.perfect([BY_NUMBER["07"]], tmp_path / "a", 1)
    classes.hostile([BY_NUMBER["07"]], tmp_path / "b", 2)  # it does not end
    command = [sys.executable, "-m", "minitrain.lessons", "grade", "a", "b", "--lessons=07.1", "--totals=t.csv"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a     10 of 10   07: 10\n"
        within(3, lambda: bool(processes("environ", f"{MARK}={tmp_path}")))  # the check of b has begun
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(15) == 130
    assert (tmp_path / "t.csv").read_text("utf-8").splitlines()[1:] == [f"a,10,10,10,,{digest(tmp_path / 'a')}"]
    left = {path.name for path in tmp_path.iterdir()} - {"minitrain-hypothesis"}  # a cache
    assert left == {"a", "b", "t.csv"}


def digest(folder: Path) -> str:
    return sha256((folder / "07_data_parallel" / "exercise.py").read_bytes()).hexdigest()[:12]


@pytest.mark.full
def test_six_students(tmp_path: Path) -> None:
    """Two are perfect, two have some solutions, one leaves processes behind, one exits."""
    folder = tmp_path / "class"
    right = classes.make(folder, 2, [BY_NUMBER["06"]])
    before = content(folder)
    done, points = graded(folder, "--lessons=06", "--jobs=2", seconds=300)
    assert done.returncode == 0 and points == right, done.stdout + done.stderr
    assert content(folder) == before


@pytest.mark.full
def test_a_prank_costs_only_its_own_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five are graded at a time, since those that hang only wait; they have less time than students have."""
    folder, names = tmp_path / "class", [f"prank{number:02}" for number in range(len(classes.PRANKS))]
    for number, name in enumerate(names):
        classes.hostile([BY_NUMBER["07"]], folder / name, number)
    before, scratch = content(folder), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    done, points = graded(folder, "--lessons=07.2", "--jobs=5", seconds=200, limit=1.5)
    assert done.returncode == 0 and points == dict.fromkeys(names, 0), done.stdout + done.stderr
    assert content(folder) == before
    assert {path.name for path in scratch.iterdir()} <= {"minitrain-hypothesis"}  # a cache
    assert processes("cmdline", str(scratch)) == processes("cmdline", "7654") == []
