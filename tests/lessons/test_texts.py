"""The READMEs: commands print what the text shows, quoted code matches the library, and links work."""

import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from minitrain.lessons.course import COURSE
from minitrain.lessons.manifest import Lesson, written
from minitrain.lessons.text import links, problems, readmes, same
from tests.lessons.together import started

TEXT = """# Title

```python minitrain.errors:check_text
{code}```

```console
$ echo {word}
hello
```

See [this]({link}). It is {number} bytes.

    {shown}
"""
CODE = '''def check_text(name: str, value: Any) -> None:
    """Raise UserError unless the value is a string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is {shown(value)}; it must be a string")
'''


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Iterator[dict[tuple, Future]]:
    """Return the problems of every selected text; one command runs at a time, since four ranks keep two cores busy."""
    yield from started(request, ("path",), problems, workers=1)


@pytest.mark.parametrize("path", readmes(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_text_is_true_without_its_commands(path: Path) -> None:
    assert problems(path, run=False) == []


@pytest.mark.full
@pytest.mark.parametrize("path", readmes(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_text_is_true(path: Path, found: dict[tuple, Future]) -> None:
    assert found[path,].result() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"code": "def check_text(): ...\n"}, "it says"),
        ({"word": "goodbye"}, "it is now 'goodbye'"),
        ({"link": "nowhere.md"}, "nowhere.md leads nowhere"),
        ({"number": "1234"}, "1234 is in the prose and in no output"),
        ({"word": "hello; echo more"}, "it is now 'more'"),
    ],
)
def test_what_has_drifted_is_seen(change: dict[str, str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    good = {"code": CODE, "word": "hello", "link": "README.md", "number": "4,096", "shown": "4096"}
    path.write_text(TEXT.format(**{**good, **change}), "utf-8")
    found = "\n".join(problems(path))
    assert says in found and bool(found) == bool(says)


@pytest.mark.parametrize("lesson", written(), ids=lambda lesson: lesson.name)
def test_the_lecturers_guide_follows_the_lessons_page(lesson: Lesson) -> None:
    page = (lesson.folder / "README.md").read_text("utf-8")
    guide = (COURSE / "TEACHING.md").read_text("utf-8")
    section = re.split(r"^##+ ", guide.partition(f"\n### {lesson.number} ")[2], flags=re.MULTILINE)[0]
    board = re.findall(r"^    .*$", section, re.MULTILINE)
    number, answer = r"\d[\d.,]*\d|\d", re.compile(r"^\d\. ", re.MULTILINE)
    assert len(board) >= 5 and set(re.findall(number, "\n".join(board))) <= set(re.findall(number, page))
    assert set(re.findall(r"\b\d\d\.\d\b", section)) <= {exercise.id for exercise in lesson.exercises}
    predictions = page.partition("\n## Predict before you run\n")[2].partition("\n## ")[0]
    assert answer.findall(section) == answer.findall(predictions) != []


def test_a_call_in_code_is_no_link(tmp_path: Path) -> None:
    assert links(tmp_path / "README.md", "```python\ntable[kind](do)\n```\n") == []
    assert links(tmp_path / "README.md", "See [this](do).\n") == ["the link do leads nowhere"]


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("a  b", "a b", True),
        ("a 1", "a 2", False),
        ("x ≈ 1.00 ok", "x ≈ 1.02 ok", True),
        ("x ≈ 1.00 ok", "x ≈ 1.20 ok", False),
        ("x ≈ 1.00 ok", "x ≈ 1.00 NO", False),
        ("x ≈ 8.9e-16", "x ≈ 0.0e+00", True),
        ("x ≈ 8.9e-16", "x ≈ 1.0e-02", False),
        ("loss 0.144 of 3", "loss 0.145 of 3", True),
        ("loss 0.144 of 3", "loss 0.145 of 4", False),
        ("loss 0.144", "loss 0.154", False),
        ("idle 0.75", "idle 0.76", False),
        ("loss 0.144", "loss 0.144 more", False),
        ("2.37 | oo ##", "2.37 |  o  #", True),
        ("2.37 | oo ##", "2.38 | oo ##", False),
        ("2.37 | oo oo", "2.37 | ## ##o", False),
        ("| a | b |", "| a | c |", False),
    ],
)
def test_what_counts_as_the_same_line(old: str, new: str, alike: bool) -> None:
    assert same(old, new) == alike
