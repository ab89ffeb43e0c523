"""Predictions of a student's own, and mistakes that the checker does not give away."""

import json
from pathlib import Path

import pytest

from minitrain.lessons import check as checking
from minitrain.lessons import predictions
from minitrain.lessons.check import LEFT, Verdict, check
from minitrain.lessons.manifest import Exercise, exercises
from minitrain.lessons.predictions import mistaken, right
from minitrain.lessons.stubs import entry, replaced, source, stub
from tests.lessons.individual import own
from tests.lessons.together import BY_ID

PREDICT = [exercise for exercise in exercises() if exercise.kind == "P"]


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
