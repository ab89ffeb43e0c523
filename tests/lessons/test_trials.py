"""The machine that tries a student's function on drawn arguments: what it finds, and what it lets pass."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from minitrain import debug
from minitrain.comm.communicator import Communicator
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks, apart
from minitrain.lessons.worker import load

TAG = ("dp", "test")
NUMBERS = st.tuples(st.lists(st.integers(-9, 9), max_size=4))


def total(numbers: list[int]) -> int:
    """The reference of the first tests."""
    if len(numbers) > 3:
        raise ValueError("too many")
    return sum(numbers)


def found(source: str, folder: Path, **options: Any) -> str:
    """Return the sentence about a student's file that defines `total`; "" if it passes."""
    file = folder / "exercise.py"
    file.write_text(source, "utf-8")
    report = Report()
    agrees(report, load(file).total, total, NUMBERS, **options)
    return report.failure


BEGIN = "def total(numbers):\n    if len(numbers) > 3:\n        raise ValueError\n"
RIGHT = ("    return sum(numbers)\n", "    import numpy as np\n    return np.sum(numbers, dtype=int)\n")
WRONG = {
    "    return sum(numbers[:2])\n": r"total\(\[0, 0, 1\]\) returns 0; right is 1",
    "    return float(sum(numbers))\n": r"total\(\[\]\) returns 0.0, of type float; right is 0",
    "    numbers.append(1)\n    return sum(numbers[:-1])\n": r"leaves argument 1 as \[1\]; right is \[\]",
    "    return sum(numbers) if numbers else None\n": r"total\(\[\]\) returns None, of type NoneType; right is 0",
    "    return sum(numbers) // (1 if numbers else 0)\n": r"total\(\[\]\) raises ZeroDivisionError.*must return 0",
}


@pytest.mark.parametrize("body", RIGHT)
def test_what_is_right_passes(body: str, tmp_path: Path) -> None:
    assert found(BEGIN + body, tmp_path) == ""


@pytest.mark.parametrize(("body", "says"), WRONG.items())
def test_the_smallest_example_is_shown(body: str, says: str, tmp_path: Path) -> None:
    report = found(BEGIN + body, tmp_path)
    assert re.search(says, report), report


def test_an_error_that_is_missing(tmp_path: Path) -> None:
    assert found("def total(numbers):\n    return sum(numbers)\n", tmp_path).endswith(
        "it must raise ValueError: too many"
    )


def test_what_is_kept_between_calls(tmp_path: Path) -> None:
    """Each is right when it is called once on each argument, as the first pass does."""
    twice = "SEEN = set()\n" + BEGIN + "    again = tuple(numbers) in SEEN\n    SEEN.add(tuple(numbers))\n"
    assert "a second time" in found(twice + "    return sum(numbers) + again\n", tmp_path)
    late = (
        "CALLS = []\n"
        + BEGIN
        + "    CALLS.append(1)\n    return sum(numbers) if len(CALLS) > 1 or not numbers else 99\n"
    )
    assert "the first call in a new process, returns 99" in found(late, tmp_path)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("return KEPT.setdefault(n, [n])", "the same list in every call"),
        ("return KEPT.setdefault(n, np.zeros(n))", "the same ndarray in every call"),
        ("return {'rows': (1, KEPT.setdefault(n, np.zeros(n)))}", "the same dict in every call"),
        ("return [n], (n, np.zeros(n))", ""),
        ("return EMPTY", ""),  # cannot be changed
    ],
)
def test_a_result_that_two_calls_share(body: str, kept: str, tmp_path: Path) -> None:
    file = tmp_path / "exercise.py"
    file.write_text(f"import numpy as np\nKEPT, EMPTY = {{}}, ()\ndef made(n):\n    {body}\n", "utf-8")
    report = Report()
    agrees(report, load(file).made, lambda n: load(file).made(n), st.tuples(st.just(2)), name="made")
    assert kept in report.failure and bool(kept) == bool(report.failure)


def test_a_function_may_be_used_in_another_way(tmp_path: Path) -> None:
    """A fresh module is used in the same way."""

    def twice(total: Callable[[list[int]], int], numbers: list[int]) -> dict[str, int]:
        return {"the sum": total(numbers[:3]), "the sum of two": total(numbers[:2])}

    assert found(BEGIN + RIGHT[0], tmp_path, run=twice) == ""
    of_three = BEGIN + "    return sum(numbers) + (len(numbers) > 2)\n"
    assert found(of_three, tmp_path, run=twice) == "total([0, 0, 0]) gives 'the sum': 1; right is 0"
    raises = BEGIN + "    return sum(numbers) // (1 if numbers else 0)\n"
    assert "raises ZeroDivisionError: integer division or modulo by zero; it must raise no error" in found(
        raises, tmp_path, run=twice
    )
    late = (
        "CALLS = []\n"
        + BEGIN
        + "    CALLS.append(1)\n    return sum(numbers) if len(CALLS) > 1 or not numbers else 99\n"
    )
    assert "in a new process, gives 'the sum': 99" in found(late, tmp_path, run=twice)


def test_a_failure_that_does_not_come_again(tmp_path: Path) -> None:
    """The first call with each list is wrong, so that Hypothesis cannot find it again."""
    once = (
        "SEEN = []\n"
        + BEGIN
        + "    new = numbers not in SEEN\n    SEEN.append(numbers)\n    return sum(numbers) + new\n"
    )
    assert found(once, tmp_path) == (
        "total([]) returns 1; right is 0, but not in every call: something is kept between calls"
    )


def test_the_key_of_a_dictionary_is_named() -> None:
    assert apart({"a": 1, "b": 2}, {"a": 1, "b": 3}, 0) == "'b': 2; right is 3"


def test_an_earlier_result_is_not_changed(tmp_path: Path) -> None:
    report, file = Report(), tmp_path / "exercise.py"
    file.write_text("OUT = []\ndef counted(n):\n    OUT[:] = range(n)\n    return OUT\n", "utf-8")
    agrees(report, load(file).counted, lambda n: list(range(n)), st.tuples(st.integers(0, 5)), name="counted")
    assert re.search(r"what counted\(\d\) returned is changed by later calls", report.failure), report.failure


@pytest.mark.parametrize(
    "decorated",
    [
        "from functools import cache\n@cache\ndef total(numbers):\n    return sum(numbers)\n",
        "def named(f):\n    def inner(*given):\n        return f(*given)\n    return inner\n"
        "@named\ndef total(numbers):\n    return sum(numbers)\n",
    ],
)
def test_a_decorated_function(decorated: str, tmp_path: Path) -> None:
    report, file = Report(), tmp_path / "exercise.py"
    file.write_text(decorated, "utf-8")
    agrees(report, load(file).total, sum, NUMBERS.map(lambda given: (tuple(given[0]),)))
    assert report.ok, report.failure


def test_a_recursion_that_is_too_deep(tmp_path: Path) -> None:
    """Hypothesis allows deeper recursions; that they fail afterwards is not blamed on an earlier call."""
    report, file = Report(), tmp_path / "exercise.py"
    file.write_text("def down(n):\n    return 0 if n == 0 else down(n - 1)\n", "utf-8")
    agrees(report, load(file).down, lambda n: 0, st.tuples(st.sampled_from([0, 980])), name="down")
    assert "between calls" not in report.failure, report.failure


def test_an_argument_may_be_scratch(tmp_path: Path) -> None:
    eats = BEGIN + "    answer = sum(numbers)\n    numbers.clear()\n    return answer\n"
    assert "leaves argument 1" in found(eats, tmp_path) and found(eats, tmp_path, scratch=[0]) == ""


@pytest.mark.parametrize(
    ("got", "true", "close", "same"),
    [
        (np.int64(3), 3, 0, True),
        (True, 1, 0, False),
        (1, True, 0, False),
        (np.float32(0.5), 0.5, 0, True),
        (2, 2.0, 0, True),
        (1.0, 1, 0, False),
        (float("nan"), float("nan"), 0, True),
        (1 + 1e-13, 1.0, 1e-12, True),
        (1 + 1e-11, 1.0, 1e-12, False),
        ((1, 2), [1, 2], 0, False),
        ([1, [2.0]], [1, [2.0]], 0, True),
        ([1], [1, 2], 0, False),
        ({"a": 1}, {"a": 1}, 0, True),
        ({"a": 1}, {"b": 1}, 0, False),
        (np.ones(2, np.float32), np.ones(2), 0, False),
        (np.ones((2, 1)), np.ones(2), 0, False),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), 0, True),
        (np.array([0.0]), np.array([1.0]), 0, False),
        (None, None, 0, True),
        (None, 0, 0, False),
        (slice(0, 2), slice(0, 2, None), 0, True),
        (slice(np.int64(0), 2, 1), slice(0, 2), 0, True),
        (slice(0, 2, -1), slice(0, 2), 0, False),
    ],
)
def test_when_two_results_are_the_same(got: Any, true: Any, close: float, same: bool) -> None:
    assert (apart(got, true, close) == "") == same


# On ranks -------------------------------------------------------------------------------------------------------------


def all_reduce(x: np.ndarray, comm: Communicator) -> None:
    comm.all_reduce(x, TAG)


def on_zero(x: np.ndarray, comm: Communicator) -> None:
    """A branch that depends on a rank's data."""
    if x.any():
        comm.all_reduce(x, TAG)


def for_three(x: np.ndarray, comm: Communicator) -> None:
    """Right on one, two and three ranks."""
    comm.all_reduce(x, TAG)
    if comm.size > 3:
        x += 1


def in_float64(x: np.ndarray, comm: Communicator) -> None:
    wide = x.astype(np.float64)
    comm.all_reduce(wide, TAG)
    x[...] = wide


def in_halves(x: np.ndarray, comm: Communicator) -> None:
    """Sends as much, in two messages."""
    for half in (x[: len(x) // 2], x[len(x) // 2 :]):
        comm.all_reduce(half, TAG)


def one_rank_fails(x: np.ndarray, comm: Communicator) -> None:
    comm.all_reduce(x, TAG)
    assert comm.rank < 2, "no such rank"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (all_reduce, ""),
        (in_halves, ""),
        (on_zero, r"on 2 ranks: ranks are waiting"),
        (for_three, r"on 4 ranks: rank 0 has float32"),
        (in_float64, r"on 2 ranks: together the ranks send 16 bytes; 8 are needed"),
        (one_rank_fails, r"on 3 ranks: rank 2 of 3 raised AssertionError: no such rank"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_on_one_to_four_ranks(function: Callable[..., None], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(function: Callable[..., None], comm: Communicator, given: tuple[int, int]) -> np.ndarray:
        n, zero = given
        x = np.full(n, 0.0 if comm.rank == zero else 10.0**comm.rank, np.float32)
        function(x, comm)
        return x

    monkeypatch.setattr("minitrain.lessons.trials.WAIT", 0.3)
    report = Report()
    with debug.enabled():
        agrees_on_ranks(report, function, all_reduce, st.tuples(st.integers(1, 5), st.integers(0, 3)), run)
    assert re.search(says, report.failure) and bool(report.failure) == bool(says), report.failure
    elsewhere = Report(rank=1)
    agrees_on_ranks(elsewhere, function, all_reduce, st.just((1, 0)), run)
    assert not elsewhere.claims


def test_each_rank_has_its_own_module(tmp_path: Path) -> None:
    """An array that is kept in the module is no mistake: ranks are processes."""
    file, report = tmp_path / "exercise.py", Report()
    file.write_text(
        "import numpy as np\nKEPT = np.zeros(1)\ndef total(x, comm):\n    KEPT[0] = x\n"
        "    comm.all_reduce(KEPT, ('dp', 'test'))\n    return float(KEPT[0])\n",
        "utf-8",
    )

    def true(x: float, comm: Communicator) -> float:
        kept = np.array([x])
        comm.all_reduce(kept, TAG)
        return float(kept[0])

    def run(function: Callable[..., float], comm: Communicator, given: int) -> float:
        return function(float(given + comm.rank), comm)

    agrees_on_ranks(report, load(file).total, true, st.integers(0, 5), run)
    assert report.ok, report.failure
