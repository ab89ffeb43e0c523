"""What a student reads after a check: the order of its parts, their length, the words for what went wrong."""

from pathlib import Path

import pytest

from minitrain.lessons import student, worker
from minitrain.lessons.check import Verdict
from minitrain.lessons.cli import print_verdict
from minitrain.lessons.report import LONGEST, Report, shortened
from tests.lessons.together import BY_ID


def test_the_checker_speaks_first_and_then_comes_what_was_printed(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = Verdict(BY_ID["07.1"], "failed", "it is wrong", "a mistake", ("it waits",), ("my line", "my other line"))
    print_verdict(verdict)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "07.1 shard_of                 FAIL",
        "it is wrong",
        "it waits",
        "looks like: a mistake",
        "hint: lessons hint 07.1",
        "your function printed (on the first failing rank):",
        "my line",
        "my other line",
    ]
    print_verdict(Verdict(BY_ID["07.1"], "passed", printed=("my line",)))
    assert capsys.readouterr().out.splitlines()[1:] == ["   your function printed:", "      my line"]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ((), []),
        (("a\n", "b"), ["a", "b"]),
        (("a" * 10**6,), ["a" * student.KEPT, "... and 999,000 more characters"]),
        (("a" * 999, "\nbc"), ["a" * 999, "... and 3 more characters"]),
        (("a\n",) * 12, ["a"] * 10 + ["... and 5 more characters"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_lines_and_characters_are_limited(pieces: tuple[str, ...], lines: list[str]) -> None:
    printed = student.Printed()
    for piece in pieces:
        print(piece, end="", file=printed)
    assert printed.lines() == lines and printed.size == sum(map(len, pieces))


def test_a_sentence_is_limited() -> None:
    report = Report()
    report.true("text", False, f"you say {'a' * 10**6}, right is b")
    failure = report.plain()["failure"]
    assert len(failure) < LONGEST + 40
    assert failure.startswith("you say aaa") and failure.endswith("a, right is b")
    assert shortened("a" * LONGEST) == "a" * LONGEST


def said(id: str, source: str, folder: Path) -> list[str]:
    """Return each rank's sentence about a student's file."""
    file = folder / "exercise.py"
    file.write_text(source, "utf-8")
    found = worker.as_threads(BY_ID[id], file, 20.0)
    return [found[rank]["failure"] for rank in sorted(found)]


def test_an_exception_of_the_library_is_about_what_was_returned(tmp_path: Path) -> None:
    """Only a large graph comes in another order. backward then looks for a node that the student has never seen."""
    source = "from minitrain.autograd import youngest_first as model\ndef youngest_first(outputs):\n"
    source += "    nodes, uses = model(outputs)\n"
    source += "    return nodes[1::-1] + nodes[2:] if len(nodes) > 50 else nodes, uses\n"
    (told,) = said("01.3", source, tmp_path)
    assert "cannot go on with what the function returned: KeyError: a Node at autograd.py:" in told, told


def test_arguments_that_are_missing(tmp_path: Path) -> None:
    told = said("14.1", "def gpipe(r, p, m):\n    return []\n", tmp_path)
    assert all("takes 3 positional arguments but 4 were given; the arguments must stay" in one for one in told), told


def test_collectives_in_another_order_are_named(tmp_path: Path) -> None:
    source = (
        "def sync_gradients(gradients, group):\n"
        "    for g in gradients[:: 1 if group.rank else -1]:\n"
        '        group.all_reduce(g, ("dp", "gradients"))\n'
    )
    told = said("07.2", source, tmp_path)
    assert all("ranks differ in shape" in one and "\nat exercise.py:3: group.all_reduce" in one for one in told), told


def test_a_newline_in_an_answer(tmp_path: Path) -> None:
    source = "from minitrain.lessons.manifest import BY_NUMBER\n"
    source += 'model = BY_NUMBER["00"].module("check").printed\n'
    source += 'def printed(ranks):\n    return [line + "\\n" for line in model(ranks)]\n'
    (told,) = said("00.3", source, tmp_path)
    assert "leave out the newline that print writes" in told
