"""Numbers of a student's own: drawn from an ID and a salt, in stubs, checks, hints, notebooks and grades."""

import ast
import json
import math
import shutil
from collections import Counter
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from unicodedata import normalize

import pytest

from minitrain.lessons import check as checking
from minitrain.lessons import grading, here, notebook, predictions
from minitrain.lessons.check import LEFT, Verdict, check
from minitrain.lessons.cli import main
from minitrain.lessons.exports import Row, note
from minitrain.lessons.manifest import Exercise, exercises, written
from minitrain.lessons.numbers import arguments, hashed, individual
from minitrain.lessons.predictions import line_of, mistaken, name_of, right
from minitrain.lessons.stubs import as_given, definition, entry, exercise_file, replaced, source, stub
from minitrain.lessons.submissions import receive
from tests.lessons.together import BY_ID

Capture = pytest.CaptureFixture[str]
SALT = "a long secret"
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


def own(id: str, student: str = "anna") -> Exercise:
    return individual(BY_ID[id], hashed(SALT, student))


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
        given = definition(exercise.mutant(fault.planted).path, exercise.function)
        assert head(given) == usual and given != source(exercise)
        assert len(set(fault.hints)) == 3 and (fault.hints == exercise.hints) == (fault.planted == exercise.planted)
        assert all(as_given(it, given) for it in [exercise, *mine[:3]])
    assert all(as_given(it, stub(exercise)) and not as_given(it, source(exercise)) for it in mine[:3])


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
    mine = shutil.copytree(made, tmp_path / "anna")
    monkeypatch.chdir(mine)
    return mine


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


# A check --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every function that runs pass."""

    def run(exercise: Exercise, file: Path, folder: Path, *_: object) -> checking.Output:
        plain = {"ok": True, "failure": "", "signature": [], "remarks": [], "printed": []}
        for rank in range(exercise.ranks):
            (folder / f"rank_{rank}.json").write_text(json.dumps({"rank": rank, **plain}), "utf-8")
        return checking.Output()

    monkeypatch.setattr(checking, "_run", run)


def predicted(exercise: Exercise, value: str, is_written: bool, folder: Path) -> Verdict:
    """Check a file with this prediction, and with the function written or not."""
    text = entry(exercise).replace(" = None ", f" = {value} ", 1)
    file = folder / "exercise.py"
    file.write_text(replaced(text, exercise, source(exercise)) if is_written else text, "utf-8")
    return check(exercise, file)


@pytest.mark.usefixtures("passing")
@pytest.mark.parametrize("exercise", PREDICT, ids=lambda e: e.id)
def test_only_the_own_answer_is_right(exercise: Exercise, tmp_path: Path) -> None:
    """The sentence gives the call, and not its result."""
    mine, neighbour = own(exercise.id), own(exercise.id, "ben")
    answer = repr(right(mine))
    assert predicted(mine, answer, True, tmp_path).state == "passed"
    assert predicted(mine, answer, False, tmp_path).state == predicted(mine, "None", False, tmp_path).state == "open"
    for is_written in (False, True):
        verdict = predicted(mine, repr(right(neighbour)), is_written, tmp_path)
        assert verdict.state == "failed" and predictions.call_of(mine) in verdict.sentence
        assert answer not in verdict.sentence and repr(right(neighbour)) not in verdict.sentence


@pytest.mark.usefixtures("passing")
def test_a_prediction_is_needed_before_the_function_counts(tmp_path: Path) -> None:
    verdict = predicted(own("06.3"), "None", True, tmp_path)
    assert verdict.state == "failed" and verdict.sentence.startswith(
        "PREDICTED_06_3 is None: first work out equal_size("
    )
    (tmp_path / "exercise.py").write_text(source(own("06.3")), "utf-8")
    verdict = check(own("06.3"), tmp_path / "exercise.py")
    assert verdict.state == "failed" and verdict.sentence.startswith("there is no PREDICTED_06_3: first work out")
    assert check(BY_ID["06.3"], tmp_path / "exercise.py").state == "passed"


WRITTEN_OUT = "must be written out, as in 12, 1.5e6 or [1, 2], without names, calls and operations"


@pytest.mark.parametrize(
    ("id", "value", "says"),
    [
        ("06.3", "equal_size(3, 1e-6, 1e-10)", WRITTEN_OUT),
        ("06.3", "1e6 / 3", WRITTEN_OUT),
        ("06.3", "{[]: 1}", WRITTEN_OUT),
        ("06.3", "-" * 5000 + "1", "not Python code"),
        ("06.3", "True", "(it must be a number)"),
        ("06.3", "'12'", "(it must be a number)"),
        ("06.3", "1e999", "to within 1%"),
        ("06.3", "0x" + "f" * 5000, "to within 1%"),
        ("02.3", "0x" + "f" * 5000, "is not what adam_bytes(sizes="),
        ("02.3", "True", "(it must be a number)"),
        ("00.3", "7", "(it must be a list of 7 elements)"),
        ("00.3", "['rank 0 has 6']", "(it must be a list of 7 elements)"),
        ("00.3", "['rank 0 has 6', 3, 4, 5, 6, 7, 8]", "(see element 1)"),
        ("03.3", "{'linear': 905}", "(it must be a dict with the keys 'linear', 'cosine', 'exponential', "),
        ("03.3", "[1, 2, 3, 4, 5]", "(it must be a dict with the keys 'linear'"),
    ],
)
def test_what_is_wrong_with_a_prediction(id: str, value: str, says: str, tmp_path: Path) -> None:
    verdict = predicted(own(id), value, False, tmp_path)
    assert verdict.state == "failed" and says in verdict.sentence, verdict


def test_numbers_need_not_be_exact() -> None:
    exercise = own("06.3")
    true, said = right(exercise), "PREDICTED_06_3 = {!r}\n".format
    assert all(mistaken(exercise, said(true * factor), True) == "" for factor in (0.991, 1.009))
    assert all(mistaken(exercise, said(true * factor), True) for factor in (0.98, 1.02, -1))
    halves = {key: 1.009 * value for key, value in right(own("03.3")).items()}
    assert mistaken(own("03.3"), f"PREDICTED_03_3 = {halves}\n", True) == ""
    told = mistaken(own("03.3"), f"PREDICTED_03_3 = {halves | {'exponential': 1}}\n", True)
    assert "(see 'exponential')" in told
    assert mistaken(own("07.4"), f"PREDICTED_07_4 = {right(own('07.4')) + 1}\n", True)
    assert mistaken(own("07.4"), f"PREDICTED_07_4 = {float(right(own('07.4')))}\n", True) == ""
    assert mistaken(exercise, said(1) + said(true), True) == "" != mistaken(exercise, said(true) + said(1), True)


def test_an_own_mistake_is_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student's function is recognized as it was given; and a change elsewhere does not make the checker tell."""
    exercise = own("02.4")
    mistake = exercise.mutant(exercise.planted).mistake
    file = tmp_path / "exercise.py"
    monkeypatch.setattr(checking, "_cause", lambda *_: mistake)
    wrong = {"rank": 0, "ok": False, "failure": "it is wrong", "signature": [], "remarks": [], "printed": []}
    monkeypatch.setattr(checking, "_run", lambda *given: reported(given[2], wrong))
    for text in (stub(exercise), stub(exercise).replace("    return", "    # changed\n    return")):
        file.write_text("import numpy as np\n" + text, "utf-8")
        if text == stub(exercise):
            assert check(exercise, file).state == "open"
        assert check(exercise, file, as_given=True).cause == LEFT
        assert check(BY_ID["02.4"], file, as_given=True).cause == mistake


def reported(folder: Path, report: dict[str, object]) -> checking.Output:
    (folder / "rank_0.json").write_text(json.dumps(report), "utf-8")
    return checking.Output()


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


@pytest.mark.usefixtures("passing")
def test_selftest_fills_in_the_predictions(anna: Path, capsys: Capture) -> None:
    assert main(["selftest", str(anna)]) == 0
    assert "yours is kept" not in capsys.readouterr().out
    for lesson in written():
        compile((anna / lesson.folder.name / "exercise.py").read_text("utf-8"), "exercise.py", "exec")


# A class --------------------------------------------------------------------------------------------------------------


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
    assert [line.partition("06: 10")[2] for line in lines[:7]] == [unverified] * 2 + [""] * 5
    assert checked == {
        "ben": {hashed(SALT, "anna")}, "chen": {hashed("x", "chen")}, **{name: {""} for name in names[2:]},
    }  # fmt: skip


def test_a_single_folder(anna: Path, tmp_path: Path, capsys: Capture, checked: dict[str, set[str]]) -> None:
    (tmp_path / "salt").write_text(SALT, "utf-8")
    assert main(["grade", str(anna), "--lessons", "06.3", f"--salt-file={tmp_path / 'salt'}"]) == 0
    assert "numbers" not in capsys.readouterr().out
    assert main(["grade", str(anna), "--lessons", "06.3", "--salt", "another"]) == 0
    assert "checked with the numbers of 'anna', but the folder does not have them" in capsys.readouterr().out
    assert main(["grade", str(anna), "--salt", " "]) == 2 and "the salt is empty" in capsys.readouterr().err


def test_a_copied_file_is_graded_with_the_own_numbers(anna: Path, tmp_path: Path) -> None:
    """Ben hands in anna's folder, solved and under his name: her predictions are wrong, and the rows say so."""
    for lesson in written():
        text = exercise_file(lesson, solved=True, numbers=hashed(SALT, "anna"))
        (anna / lesson.folder.name / "exercise.py").write_text(text, "utf-8")
    (anna / ".lessons.json").write_text(json.dumps(whose("ben")), "utf-8")
    submission = receive("ben", anna, [BY_ID["06.3"].lesson])
    (tmp_path / "06_collectives").mkdir()
    file = tmp_path / "06_collectives" / "exercise.py"
    file.write_bytes(submission.files["06"])
    verdict = check(individual(BY_ID["06.3"], submission.numbers), file)
    assert verdict.state == "failed" and predictions.call_of(own("06.3", "ben")) in verdict.sentence


def test_a_remark_comes_before_other_notes() -> None:
    row = Row("a", "06.1", "f", "I", True, 1.0, 1.0, "", "", True, "0" * 12, 0.5, "its ID is 'b'")
    assert note([row]) == "its ID is 'b'; looked at 1 solution"
