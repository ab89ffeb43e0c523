"""`lessons grade` with a salt: whose numbers a folder is checked with, and what is said of one that does not fit."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest

from minitrain.lessons import grading, predictions
from minitrain.lessons.check import Verdict, check
from minitrain.lessons.cli import main
from minitrain.lessons.exports import Row, note
from minitrain.lessons.manifest import Exercise
from minitrain.lessons.numbers import hashed, individual
from minitrain.lessons.stubs import exercise_file
from minitrain.lessons.submissions import receive
from tests.lessons.individual import SALT, own
from tests.lessons.together import BY_ID

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Return student -> the numbers that their exercises are checked with: exercise.py contains the student's name."""
    seen: dict[str, set[str]] = {}

    def check(exercise: Exercise, file: Path, **_: object) -> Verdict:
        seen.setdefault(file.read_text("utf-8"), set()).add(exercise.numbers)
        return Verdict(exercise, "passed")

    monkeypatch.setattr(grading, "check", check)
    return seen


def folder_of(path: Path, state: object) -> str:
    file = path / "06_collectives" / "exercise.py"
    file.parent.mkdir(parents=True)
    file.write_text(path.name, "utf-8")
    if state is not None:
        (path / ".lessons.json").write_text(json.dumps(state), "utf-8")
    return str(path)


def whose(id: object, of: str = "", salt: str = SALT) -> dict[str, object]:
    """Return what a folder remembers: its ID, and the numbers `of` somebody."""
    return {"student": id, "numbers": hashed(salt, of or str(id))}


CLASS: list[tuple[str, object, str, str]] = [  # folder, what it remembers, whose numbers are due, remark
    ("anna", whose("anna"), "anna", ""),
    ("ben", whose("ben", "anna"), "ben", "checked with the numbers of 'ben', but the folder has those of 'anna'"),
    ("chen", whose("chen", salt="x"), "chen", "checked with the numbers of 'chen', but the folder does not have them"),
    ("dora", {"student": "dora"}, "dora", "checked with the numbers of 'dora', but the folder does not have them"),
    ("eve", None, "eve", "no student ID: checked with the numbers of 'eve'"),
    ("fay", {}, "fay", "no student ID: checked with the numbers of 'fay'"),
    ("gus (1)", whose("gus"), "gus", "its ID is 'gus'"),
    ("hal", whose("ida"), "ida", "its ID is 'ida'; the same ID as ida"),
    ("ida", whose("ida"), "ida", "the same ID as hal"),
    ("J\u00f6rg", whose(normalize("NFD", "J\u00f6rg")), "J\u00f6rg", ""),
    ("kim", {"student": 3, "numbers": [1]}, "kim", "no student ID: checked with the numbers of 'kim'"),
    ("lou", {"student": "\ud800", "numbers": "\ud800"}, "\ud800",
     "checked with the numbers of '\\ud800', but the folder does not have them; its ID is '\\ud800'"),
    ("moe", {"student": "a" * 10**5, "numbers": "f" * 65}, "moe", "no student ID: checked with the numbers of 'moe'"),
    ("nan", {"student": {}, "06.1": {"shown": 1}}, "nan", "no student ID: checked with the numbers of 'nan'"),
]  # fmt: skip


def test_a_class_is_checked_with_the_numbers_of_its_ids(
    tmp_path: Path, capsys: Capture, checked: dict[str, set[str]]
) -> None:
    """What a folder says of its numbers does not count. Lines, rows and totals tell what does not fit."""
    paths = [folder_of(tmp_path / "class" / name, state) for name, state, _, _ in CLASS]
    files = [f"--{form}={tmp_path / form}" for form in ("json", "totals", "csv")]
    assert main(["grade", *paths, "--lessons", "06.1,06.3", "--salt", SALT, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "json").read_text("utf-8"))
    totals = (tmp_path / "totals").read_text("utf-8")
    for (name, _, id, remark), line in zip(CLASS, lines, strict=False):
        assert checked[name] == {hashed(SALT, id)}
        assert line.startswith(name) and line.partition("06: 20")[2].strip().startswith(remark)
        assert {row["remark"] for row in rows if row["student"] == name} == {remark}
        assert remark in totals
    assert lines[0].endswith("06: 20") and "looked at 1 solution" in lines[-4]


def test_without_a_salt_the_numbers_in_the_folders_are_believed(
    tmp_path: Path, capsys: Capture, checked: dict[str, set[str]]
) -> None:
    names = ("ben", "chen", "dora", "eve", "kim", "lou", "moe")
    states = {name: state for name, state, _, _ in CLASS if name in names}
    paths = [folder_of(tmp_path / "class" / name, state) for name, state in states.items()]
    assert main(["grade", *paths, "--lessons", "06.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    unverified = "  own numbers, not verified without --salt"
    remarks = [unverified] * 2 + [""] * 3 + ["  its ID is '\\ud800'", ""]
    assert [line.partition("06: 10")[2] for line in lines[:7]] == remarks
    assert checked == {
        "ben": {hashed(SALT, "anna")}, "chen": {hashed("x", "chen")}, **{name: {""} for name in names[2:]},
    }  # fmt: skip


@pytest.mark.usefixtures("checked")
@pytest.mark.parametrize("salt", [[], ["--salt", SALT]], ids=["without a salt", "with it"])
def test_a_copied_folder_is_seen(salt: list[str], tmp_path: Path, capsys: Capture) -> None:
    paths = [folder_of(tmp_path / name, whose("anna")) for name in ("anna", "ben")]
    assert main(["grade", *paths, "--lessons", "06.3", *salt]) == 0
    anna, ben = capsys.readouterr().out.splitlines()[:2]
    assert anna.endswith("the same ID as ben") and ben.endswith("its ID is 'anna'; the same ID as anna")


@pytest.mark.usefixtures("checked")
def test_another_salt_is_not_that_of_the_class(tmp_path: Path, capsys: Capture) -> None:
    paths = [folder_of(tmp_path / name, whose(name)) for name in ("anna", "ben")]
    assert main(["grade", *paths, "--lessons", "06.3", "--salt", "another"]) == 2
    assert "the salt is another one than that of `lessons init`: none of 2 folders" in capsys.readouterr().err


@pytest.mark.usefixtures("checked")
def test_a_copied_prediction_is_seen(tmp_path: Path, capsys: Capture) -> None:
    """Anna's is right, ben's is hers, chen's is his own, dora's is anybody's, and eve's cannot be read."""
    answer = predictions.right(own("06.3", "anna"))
    said = {"anna": answer, "ben": 1.001 * answer, "chen": predictions.right(own("06.3", "chen")), "dora": 1.0}
    said["eve"] = "equal_size("
    for name, value in said.items():
        folder_of(tmp_path / name, whose(name))
        (tmp_path / name / "06_collectives" / "exercise.py").write_text(f"{name}\nPREDICTED_06_3 = {value}\n")
    assert main(["grade", *(str(tmp_path / name) for name in said), "--lessons", "06.3,06.4", "--salt", SALT]) == 0
    lines = capsys.readouterr().out.splitlines()[:5]
    assert [line.partition("06: 20")[2].strip() for line in lines] == ["", "PREDICTED_06_3 is that of anna", "", "", ""]


@pytest.mark.usefixtures("checked")
def test_a_single_folder(tmp_path: Path, capsys: Capture) -> None:
    anna = folder_of(tmp_path / "anna", whose("anna"))
    (tmp_path / "salt").write_text(SALT, "utf-8")
    assert main(["grade", anna, "--lessons", "06.3", f"--salt-file={tmp_path / 'salt'}"]) == 0
    assert "numbers" not in capsys.readouterr().out
    assert main(["grade", anna, "--lessons", "06.3", "--salt", "another"]) == 0
    assert "checked with the numbers of 'anna', but the folder does not have them" in capsys.readouterr().out
    assert main(["grade", anna, "--salt", " "]) == 2 and "the salt is empty" in capsys.readouterr().err


def test_a_copied_file_is_graded_with_the_own_numbers(tmp_path: Path) -> None:
    """Ben hands in what anna has solved: her prediction is not his."""
    lesson = BY_ID["06.3"].lesson
    folder_of(tmp_path / "ben", whose("ben"))
    file = tmp_path / "ben" / lesson.folder.name / "exercise.py"
    file.write_text(exercise_file(lesson, solved=True, numbers=hashed(SALT, "anna")), "utf-8")
    verdict = check(individual(BY_ID["06.3"], receive("ben", tmp_path / "ben", [lesson]).numbers), file)
    assert verdict.state == "failed" and predictions.call_of(own("06.3", "ben")) in verdict.sentence


def test_a_remark_comes_before_other_notes() -> None:
    row = Row("a", "06.1", "f", "I", True, 1.0, 1.0, "", "", True, "0" * 12, 0.5, "its ID is 'b'")
    assert note([row]) == "its ID is 'b'; looked at 1 solution"
