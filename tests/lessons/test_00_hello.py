"""What the checks of lesson 00 say of mistakes that have no mutant, or that hang."""

from pathlib import Path

import pytest

from lessons import check as checking
from lessons.check import Verdict, check
from lessons.manifest import exercises

HELLO = {exercise.id: exercise for exercise in exercises() if exercise.lesson.number == "00"}


def verdict(name: str, text: str, folder: Path) -> Verdict:
    file = folder / "exercise.py"
    file.write_text(text, "utf-8")
    return check(HELLO[name], file)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("00.1", "def say(world, text, file=None):\n    pass\n", "nothing came: is print called, and with file=file?"),
        ("00.3", "def printed(ranks):\n    return [3, 1, 11, 13]\n", "each line is a text"),
        ("00.3", "def printed(ranks):\n    return 'rank 0 has 3'\n", "a list of lines is wanted"),
    ],
)
def test_what_is_said(name: str, text: str, says: str, tmp_path: Path) -> None:
    found = verdict(name, text, tmp_path)
    assert found.state == "failed" and says in found.sentence, found


@pytest.mark.parametrize(
    ("name", "mutant", "says"),
    [
        ("00.1", "1_rank_0_gathers_alone", ("no return from gather_objects", "when every rank has called it")),
        ("00.2", "2_as_given", ("4,194,304 bytes: no return from wait", "when its receiver stands in receive")),
        ("00.2", "2_receives_first", ("24 bytes: no return from receive", "nothing is on its way")),
    ],
)
def test_a_hang_is_explained(
    name: str, mutant: str, says: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the size of the message, on which it depends whether a send waits."""
    monkeypatch.setattr(checking, "LIMIT", 4.0)
    (path,) = (m.path for m in HELLO[name].mutants() if m.path.stem == mutant)
    found = check(HELLO[name], path, as_given=True)
    assert found.state == "failed"
    assert all(part in "\n".join(found.printed) for part in says), found
