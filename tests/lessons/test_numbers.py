"""Numbers of a student's own: drawn from an ID and a salt, in the folder, its stubs, hints and notebooks."""

import ast
import json
import math
from collections import Counter
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from unicodedata import normalize

import pytest

from minitrain.lessons import here, notebook, predictions
from minitrain.lessons.check import Verdict
from minitrain.lessons.cli import main
from minitrain.lessons.manifest import Exercise, exercises, written
from minitrain.lessons.numbers import arguments, hashed, individual
from minitrain.lessons.predictions import line_of, mistaken, name_of, right
from minitrain.lessons.stubs import definition, entry, exercise_file, replaced, source, stub, was_given
from tests.lessons.individual import SALT, own
from tests.lessons.together import BY_ID, copied_here

Capture = pytest.CaptureFixture[str]
STUDENTS = [hashed(SALT, f"student {number}") for number in range(200)]
PREDICT = [exercise for exercise in exercises() if exercise.kind == "P"]
FIX = [exercise for exercise in exercises() if exercise.kind == "B"]
SHARE = {"00.3": 0.1, "05.3": 0.03}  # of pairs of students with the same answer; 00.3 is predicted line by line
ANNA = {
    "00.3": {"ranks": 7},
    "02.3": {"sizes": (33, 37, 9)},
    "03.3": {"updates": 290, "warm": 95, "gamma": 0.9, "k": 0.025},
    "05.3": {"half": True, "numbers": 31},
    "06.3": {"ranks": 6, "alpha": 1e-06, "beta": 3e-10},
    "07.4": {"parameters": 6050, "ranks": 37},
    "10.4": {"parameters": 2_700_000_000, "ranks": 29, "stage": 3},
    "14.3": {"p": 63, "percent": 24},
}
ANNAS_FAULTS = {
    "00.2": "2_receives_first.py",
    "01.4": "4_in_place.py",
    "02.4": "4_epsilon_inside.py",
    "03.4": "4_below_zero.py",
    "05.2": "2_skip_counts.py",
    "06.4": "4_root_is_zero.py",
    "07.3": "3_replicas_start_different.py",
    "10.3": "3_as_given.py",
    "14.4": "4_divided_again.py",
}


# Drawing --------------------------------------------------------------------------------------------------------------


def test_the_hash_tells_salt_and_id_apart() -> None:
    assert hashed("ab", "c") == sha256(b"2:abc").hexdigest() != hashed("a", "bc")
    assert hashed("1:a", "b") != hashed("1", "a:b")
    assert (
        hashed("s", normalize("NFC", "J\u00f6rg")) == hashed("s", normalize("NFD", "J\u00f6rg")) != hashed("s", "Jorg")
    )
    assert len(hashed("\ud800", "\udcff")) == 64


def test_the_numbers_of_a_student_stay_the_same() -> None:
    """They are written down here: a folder made with one version is checked with another."""
    assert {id: arguments(own(id)) for id in ANNA} == ANNA
    assert {id: own(id).planted for id in ANNAS_FAULTS} == ANNAS_FAULTS


@pytest.mark.parametrize("exercise", PREDICT, ids=lambda e: e.id)
def test_few_students_have_the_same_answer(exercise: Exercise) -> None:
    """Every drawn call is valid, and its result is no number that the call contains."""
    mine = [individual(exercise, numbers) for numbers in STUDENTS]
    answers = [right(it) for it in mine]
    for it, answer in zip(mine, answers, strict=True):
        values = answer.values() if isinstance(answer, dict) else [answer]
        assert answer and answer not in arguments(it).values()
        assert all(isinstance(value, list) or (math.isfinite(value) and value > 0) for value in values)
        assert len(line_of(it).splitlines()[0]) <= 120
    pairs = list(combinations(answers, 2))
    assert sum(predictions._apart(a, b) is None for a, b in pairs) <= SHARE.get(exercise.id, 0.01) * len(pairs)


@pytest.mark.parametrize("exercise", FIX, ids=lambda e: e.id)
def test_the_mistakes_are_shared_out(exercise: Exercise) -> None:
    """Of three mistakes each has at least a quarter of the class; signature and docstring are those of the exercise."""
    mine = [individual(exercise, numbers) for numbers in STUDENTS]
    counts = Counter(it.planted for it in mine)
    assert counts.keys() == {fault.planted for fault in exercise.faults} and len(counts) == 3
    assert min(counts.values()) >= len(STUDENTS) / 4
    usual = head(stub(exercise))
    for fault in exercise.faults:
        given = definition(exercise.mutant(fault.planted).source, exercise.function)
        assert head(given) == usual and given != source(exercise)
        assert len(set(fault.hints)) == 3 and (fault.hints == exercise.hints) == (fault.planted == exercise.planted)
        assert all(was_given(it, given) for it in [exercise, *mine[:3]])
    assert all(was_given(it, stub(exercise)) and not was_given(it, source(exercise)) for it in mine[:3])


def head(text: str) -> tuple[str, str | None]:
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    return f"{ast.unparse(function.args)} -> {ast.unparse(function.returns or function)}", ast.get_docstring(function)


def test_exercises_are_drawn_independently() -> None:
    """Who knows one number of a classmate knows no other."""
    pairs = {
        (own("05.3", s).numbers, arguments(own("05.3", s))["half"], own("02.4", s).planted) for s in "abcdefghijkl"
    }
    assert len({(half, planted) for _, half, planted in pairs}) >= 5


def test_without_a_student_nothing_changes() -> None:
    for exercise in exercises():
        assert individual(exercise, "") is exercise and line_of(exercise) == "" and mistaken(exercise, "", True) == ""
        assert entry(exercise) == stub(exercise)
    assert not any("PREDICTED" in exercise_file(lesson) for lesson in written())


# A folder -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return anna's folder, as it was made."""
    folder = tmp_path_factory.mktemp("made") / "anna"
    assert main(["init", str(folder), "--student", "anna", "--salt", SALT]) == 0
    return folder


@pytest.fixture
def anna(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of anna's folder that is the working directory."""
    return copied_here(made, tmp_path, monkeypatch)


def test_a_folder_has_own_numbers_and_not_the_salt(made: Path) -> None:
    assert json.loads((made / ".lessons.json").read_text("utf-8")) == {
        "student": "anna",
        "numbers": hashed(SALT, "anna"),
    }
    texts = [path.read_text("utf-8") for path in made.rglob("*") if path.is_file()]
    assert not any(SALT in text for text in texts)
    everything = "\n".join(texts)
    for exercise in (own(e.id) for e in exercises()):
        assert entry(exercise) in everything
        assert (f"\n{name_of(exercise)} = None  # {exercise.function}(" in everything) == (exercise.kind == "P")


def test_a_folder_is_made_again_only_for_the_same_student(anna: Path, capsys: Capture) -> None:
    """What is missing comes back with the same numbers, with or without the salt."""
    file = anna / "06_collectives" / "exercise.py"
    before = file.read_text("utf-8")
    for options in ([], ["--student", "anna", "--salt", SALT]):
        file.unlink()
        assert main(["init", str(anna), *options]) == 0 and file.read_text("utf-8") == before
    for options in (["--student", "ben", "--salt", SALT], ["--student", "anna", "--salt", "another"]):
        assert main(["init", str(anna), *options]) == 2
        assert "exists, and without these numbers; give a new folder" in capsys.readouterr().err
    assert main(["init", "plain"]) == 0 and (anna / "plain" / ".lessons.json").read_text("utf-8") == "{}"
    assert main(["init", "plain", "--student", "anna", "--salt", SALT]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--student", "anna"], "there is --student, but no salt: give --salt SALT or --salt-file FILE"),
        (["--salt", SALT], "there is a salt, but no --student: name the student"),
        (["--student", " ", "--salt", SALT], "--student is ' '; it must be an ID of 1 to 100 characters"),
        (["--student", "a" * 101, "--salt", SALT], "it must be an ID of 1 to 100 characters"),
        (["--student", "anna", "--salt", ""], "the salt is empty"),
        (["--student", "anna", "--salt", SALT, "--salt-file", "f"], "there are --salt and --salt-file"),
        (["--student", "anna", "--salt-file", "nowhere"], "cannot write or read nowhere"),
        (["--student", "anna", "--salt-file", "binary"], "--salt-file is binary; it must contain text in UTF-8"),
    ],
)
def test_mistakes_in_the_command(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff")
    assert main(["init", "mine", *arguments]) == 2
    assert says in capsys.readouterr().err and not Path("mine").exists()


def test_the_salt_may_be_in_a_file(made: Path, tmp_path: Path) -> None:
    (tmp_path / "salt.txt").write_text(f"{SALT}\n", "utf-8")
    assert main(["init", str(tmp_path / "a"), "--student=anna", f"--salt-file={tmp_path / 'salt.txt'}"]) == 0
    assert (tmp_path / "a" / ".lessons.json").read_bytes() == (made / ".lessons.json").read_bytes()


@pytest.mark.parametrize("id", ["06.3", "06.4"])
def test_reset_gives_the_own_stub_back(id: str, anna: Path) -> None:
    """Also twice, also if the student has deleted the line or set it in other ways."""
    file, exercise = anna / "06_collectives" / "exercise.py", own(id)
    before = file.read_text("utf-8")
    solved = replaced(before, exercise, source(exercise)).replace(
        f"{name_of(exercise)} = None", f"{name_of(exercise)} = 7"
    )
    set_twice = f"{name_of(exercise)}: int = (\n    3)\n\n{solved}"
    for text in (before, solved, predictions.without(solved, exercise), set_twice):
        file.write_text(text, "utf-8")
        assert main(["reset", id]) == 0
        after = file.read_text("utf-8")
        assert after.count(entry(exercise).strip()) == 1 and after.count("PREDICTED_06_3 =") == 1
        assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(before))


def test_hints_are_about_the_own_mistake(anna: Path, capsys: Capture) -> None:
    assert own("02.4").hints != BY_ID["02.4"].hints
    for level in range(3):
        assert main(["hint", "02.4"]) == 0
        assert " ".join(capsys.readouterr().out.split("\n")).startswith(
            f"02.4, hint {level + 1} of 3: {own('02.4').hints[level][:40]}"
        )


def test_a_notebook_has_the_own_numbers(anna: Path) -> None:
    assert main(["notebook", "06"]) == 0
    cells = [cell["source"] for cell in json.loads((anna / "06_collectives.ipynb").read_text("utf-8"))["cells"]]
    texts = ["".join(cell) for cell in cells]
    predict = next(i for i, text in enumerate(texts) if line_of(own("06.3")).strip() in text)
    assert texts[predict + 1] == f'check_here("06.3", equal_size, "{hashed(SALT, "anna")}")'
    assert any(stub(own("06.4")).strip() in text for text in texts)
    assert all(any(hint[:30] in text for text in texts) for hint in own("06.4").hints)
    plain = [text for _, text in notebook.cells(BY_ID["06.3"].lesson)]
    assert 'check_here("06.3", equal_size)' in plain and not any("PREDICTED" in text for text in plain)


def test_a_cell_is_checked_with_the_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Exercise] = []

    def check(exercise: Exercise, *_: object, **__: object) -> Verdict:
        found.append(exercise)
        return Verdict(exercise, "passed")

    monkeypatch.setattr(here, "check", check)
    monkeypatch.setattr(here.linecache, "getlines", lambda _: ["def equal_size(): ..."])

    def equal_size() -> None: ...

    equal_size.__module__ = "__main__"
    here.check_here("06.3", equal_size, hashed(SALT, "anna"))
    here.check_here("06.3", equal_size)
    assert found == [own("06.3"), BY_ID["06.3"]]


def test_damaged_numbers_are_named(anna: Path, capsys: Capture) -> None:
    for state in ('{"numbers": 3}', '{"numbers": "ab"}', "[]"):
        (anna / ".lessons.json").write_text(state, "utf-8")
        assert main(["check", "06.3"]) == 2 and "is damaged" in capsys.readouterr().err


def test_a_student_s_day(anna: Path, capsys: Capture) -> None:
    """Predict, write, check in a process, with nothing but the folder."""
    exercise, file = own("05.3"), anna / "05_fp16" / "exercise.py"
    assert main(["check", "05.3"]) == 1 and "open" in capsys.readouterr().out
    text = replaced(file.read_text("utf-8"), exercise, source(exercise))
    file.write_text(text.replace("PREDICTED_05_3 = None", "PREDICTED_05_3 = 7"), "utf-8")
    assert main(["check", "05.3"]) == 1 and "is not what bytes_a_parameter(half=" in " ".join(
        capsys.readouterr().out.split()
    )
    file.write_text(text.replace("PREDICTED_05_3 = None", f"PREDICTED_05_3 = {right(exercise)}"), "utf-8")
    assert main(["check", "05.3"]) == 0
    assert main(["list"]) == main(["show", "05.3"]) == 0
    state = json.loads((anna / ".lessons.json").read_text("utf-8"))
    assert state["student"] == "anna" and state["numbers"] == exercise.numbers and state["05.3"]["passed"]


def test_selftest_fills_in_the_predictions(anna: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("minitrain.lessons.cli.check_all", lambda *_: 0)
    assert main(["selftest", str(anna)]) == 0
    assert "yours is kept" not in capsys.readouterr().out
    for exercise in (own(it.id) for it in exercises()):
        text = (anna / exercise.lesson.folder.name / "exercise.py").read_text("utf-8")
        assert source(exercise) in text and mistaken(exercise, text, late=True) == ""
