"""The checker: stubs fail, model solutions pass, every wrong solution fails with a sentence that names its mistake."""

from pathlib import Path

import pytest

from lessons import check as checking
from lessons.check import check
from lessons.manifest import Exercise, Mutant, exercises, written
from lessons.stubs import exercise_file, place, replaced, source, stub

EVERY = exercises()
MUTANTS = [(e, m) for e in EVERY for m in e.mutants()]


def ids(values: list) -> list[str]:
    return [f"{e.id}-{m.path.stem}" for e, m in values]


@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.id)
def test_the_stub_fails_and_the_model_solution_passes(exercise: Exercise, tmp_path: Path) -> None:
    """Each with all other functions of the lesson unsolved."""
    file = tmp_path / "exercise.py"
    file.write_text(exercise_file(exercise.lesson), "utf-8")
    unsolved = check(exercise, file)
    assert unsolved.state == "open", unsolved
    file.write_text(replaced(file.read_text("utf-8"), exercise, source(exercise)), "utf-8")
    assert check(exercise, file).sentence == ""
    assert check(exercise, file).state == "passed"


@pytest.mark.parametrize(("exercise", "mutant"), MUTANTS, ids=ids(MUTANTS))
def test_every_wrong_solution_is_named(exercise: Exercise, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant.says:
        monkeypatch.setattr(checking, "LIMIT", 4.0)  # it may hang; a student's computer is given more time
    verdict = check(exercise, mutant.path, as_given=True)
    assert verdict.state == "failed", "it survives"
    if mutant.says:
        assert mutant.says in verdict.sentence
    else:
        assert verdict.cause == mutant.mistake, verdict


@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.id)
def test_an_exercise_is_complete(exercise: Exercise) -> None:
    mistakes = [mutant.mistake for mutant in exercise.mutants()]
    assert len(mistakes) >= {"I": 3, "B": 2, "P": 0}[exercise.kind] and all(mistakes)
    assert len(set(mistakes)) == len(mistakes)
    assert all(hint.strip() for hint in exercise.hints)
    if exercise.planted:
        assert (exercise.lesson.folder / "mutants" / exercise.planted).exists()
        assert stub(exercise) != source(exercise)


@pytest.mark.parametrize("lesson", written(), ids=lambda lesson: lesson.number)
def test_two_to_four_exercises(lesson) -> None:  # type: ignore[no-untyped-def]
    assert 2 <= len(lesson.exercises) <= 5
    names = [exercise.function for exercise in lesson.exercises]
    assert len(set(names)) == len(names), "one file cannot define two functions of one name"
    compile(exercise_file(lesson), "exercise.py", "exec")
    used = {m.path for e in lesson.exercises for m in e.mutants()}
    assert used == set((lesson.folder / "mutants").glob("*.py")), "a mutant belongs to no exercise"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def share(n, parts, i):\n    return n[i]\n", "TypeError: 'int' object is not subscriptable at exercise.py:2"),
        ("def share(n, parts, i):\n    return (\n", "exercise.py:2: '(' was never closed"),
        ("def shard(n, parts, i):\n    return 0\n", "there is no function share; python -m lessons reset 07.1"),
        ("import nowhere\ndef share(n, parts, i):\n    return 0\n", "No module named 'nowhere'"),
        ("def share(n, parts, i):\n    exit(0)\n", "the program was ended (sys.exit) at exercise.py:2"),
        ("def share(n, parts, i):\n    while True: pass\n", "not done after"),
    ],
)
def test_a_broken_file(body: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LIMIT", 2.0)
    file = tmp_path / "exercise.py"
    file.write_text(body, "utf-8")
    verdict = check(next(e for e in EVERY if e.id == "07.1"), file)
    assert verdict.state == "failed" and says in verdict.sentence, verdict


def test_a_function_is_found_with_its_decorator() -> None:
    assert place("x = 1\n@cache\ndef f():\n    pass\ny = 2\n", "f") == (1, 4)
    with pytest.raises(LookupError, match="no function g"):
        place("x = 1\n", "g")
