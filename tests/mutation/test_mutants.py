"""What is mutated, what is left alone, and that every explanation refers to an existing line."""

from pathlib import Path

import pytest

from tests.mutation.__main__ import FILES, ROOT, Result, choose, own_tests, unfinished
from tests.mutation.covering import running, statement
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import mutants_of


def changes(source: str, folder: Path) -> set[str]:
    (folder / "file.py").write_text(source)
    return {mutant.apply(source) for mutant in mutants_of(folder, "file.py")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b\n", {"(a <= b)\n", "(a >= b)\n", "pass\n"}),
        ("x = a + b\n", {"x = (a - b)\n"}),
        ("x = a and b\n", {"x = (a or b)\n", "x = (a)\n", "x = (b)\n"}),
        ("x = not a\n", {"x = (a)\n"}),
        ("x = 'tp'\n", {"x = 'pt'\n"}),
        ("x = a[i:j]\n", {"x = (a[:j])\n", "x = (a[i:])\n"}),
        ("x = f(a, b)\n", {"x = (f(b, a))\n"}),
        ("x = a.reshape(2, -1)\n", {"x = (a.reshape(-1, 2))\n", "x = a.reshape(3, -1)\n", "x = a.reshape(2, (1))\n"}),
        ("x = f(c=a)\n", {"x = (f())\n"}),
        ("x = [i for i in a if i]\n", {"x = ([i for i in a])\n"}),
        ("a.b += c\n", {"pass\n"}),
        ("for i in a:\n    break\n", {"for i in ():\n    break\n", "for i in a:\n    continue\n"}),
        ("if a:\n    f()\n", {"if True:\n    f()\n", "if False:\n    f()\n", "if a:\n    pass\n"}),
        ("def f():\n    return a\n", {"def f():\n    return None\n"}),
    ],
)
def test_each_kind_of_change(source: str, expected: set[str], tmp_path: Path) -> None:
    assert changes(source, tmp_path) == expected


def test_what_people_read_is_left_alone(tmp_path: Path) -> None:
    source = '"""Text, 1."""\n\n\ndef f(a: "x" = None) -> "y":\n    raise E(f"{a} is", 1 + 2)\n'
    assert changes(source, tmp_path) == {source.replace('raise E(f"{a} is", 1 + 2)', "pass")}
    assert changes("x = ContextVar('name')\n", tmp_path) == changes("T = TypeVar('T')\n", tmp_path) == set()
    assert changes("if TYPE_CHECKING:\n    from a import b\n", tmp_path) == set()


def test_the_same_seed_gives_the_same_mutants_on_different_lines() -> None:
    mutants = choose(50, seed=3)
    assert mutants == choose(50, seed=3) != choose(50, seed=4)
    assert len({(mutant.file, mutant.line) for mutant in mutants}) == 50
    for mutant in mutants:
        compile(mutant.apply((ROOT / mutant.file).read_text()), mutant.file, "exec")
    assert all((ROOT / own_tests(file)).exists() for file in FILES)


def test_what_is_explained_is_still_there() -> None:
    known = {mutant.key for file in FILES for mutant in mutants_of(ROOT, file)}
    assert not EQUIVALENT.keys() - known


@pytest.mark.parametrize(
    ("outcome", "stage", "stages", "left"),
    [
        ("survived", "own", ["own", "first", "full"], ["first", "full"]),
        ("survived", "full", ["own", "first"], []),
        ("survived", "first", ["full"], ["full"]),
        ("killed", "own", ["own", "first", "full"], []),
    ],
)
def test_a_run_resumes_with_the_stages_that_are_left(outcome: str, stage: str, stages: list[str], left: list) -> None:
    assert unfinished(Result("a mutant", outcome, stage, "", 1.0), stages) == left
    assert unfinished(None, stages) == stages


@pytest.mark.parametrize(
    ("context", "test"),
    [
        ("", ""),
        ("tests/a/test_b.py::test_c[x|y] (call)", "tests/a/test_b.py::test_c"),
        ("tests/a/test_b.py::test_c (setup)|tests/d/test_e.py::test_f[1]", "tests/d/test_e.py::test_f"),
    ],
)
def test_what_a_line_was_executed_by(context: str, test: str) -> None:
    assert running(context) == test


def test_a_line_belongs_to_its_statement(tmp_path: Path) -> None:
    """Of a block, only the head: what is inside runs in other tests. An import may matter to all tests."""
    path = tmp_path / "file.py"
    path.write_text("x = 1\ndef g(y=2):\n  if (a and\n    b):\n    f(c,\n      d)\n")
    found = [list(statement(path, line)) for line in range(1, 7)]
    assert found == [[], [], [3, 4], [3, 4], [5, 6], [5, 6]]
