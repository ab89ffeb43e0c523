"""Messages of lesson 00's checks for mistakes that have no mutant. (For hangs: test_sentences.py.)"""

from pathlib import Path

import pytest

from minitrain.lessons.check import Verdict, check
from minitrain.lessons.manifest import exercises
from tests.tiers import full

HELLO = {exercise.id: exercise for exercise in exercises() if exercise.lesson.number == "00"}


def verdict(name: str, text: str, folder: Path) -> Verdict:
    file = folder / "exercise.py"
    file.write_text(text, "utf-8")
    return check(HELLO[name], file)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        full(
            "00.1",
            "def print_in_order(world, text, file=None):\n    pass\n",
            "nothing was written: is print called, and with file=file?",
        ),
        ("00.3", "def printed(ranks):\n    return [3, 1, 11, 13]\n", "each line must be a string"),
        full("00.3", "def printed(ranks):\n    return 'rank 0 has 3'\n", "return a list of lines"),
    ],
)
def test_what_is_said(name: str, text: str, says: str, tmp_path: Path) -> None:
    found = verdict(name, text, tmp_path)
    assert found.state == "failed" and says in found.sentence, found
