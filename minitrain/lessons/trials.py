"""Try a student's function on drawn arguments, next to the reference. Every lesson's check ends with it.

    agrees(report, shard_of, REFERENCE, st.tuples(st.integers(0, 20), st.integers(1, 5), ...))

Hand-picked cases name the mistakes that students make. Drawn ones find the others: a value that no case has, a function
that is right for three ranks only, one that changes its arguments or remembers the last call. Arguments are drawn by
Hypothesis, always the same ones, and the smallest that fails is shown.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.strategies import SearchStrategy

from ..comm import threads
from ..comm.communicator import Communicator
from ..observe.ledger import Ledger
from .apart import Apart
from .report import Report
from .student import load

EXAMPLES = 80
AGAIN = 20  # of them are tried a second time
KEPT = ", but not in every call: something is kept between calls"
WAIT = 1.0  # seconds that ranks may wait for each other
QUIET = settings(
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

Run = Callable[[Callable[..., Any], Communicator, Any], Any]


@dataclass(frozen=True)
class Outcome:
    """What a call did. value: the result. after: the arguments, which it may have changed. raised: the exception."""

    value: Any
    after: tuple[Any, ...] = ()
    raised: str = ""

    def __str__(self) -> str:
        return f"raises {self.raised}" if self.raised else f"returns {shown(self.value)}"


def outcome(function: Callable[..., Any], given: Sequence[Any], run: Callable[..., Any] | None = None) -> Outcome:
    """Call the function, or run with it, on copies of the arguments."""
    arguments = copy.deepcopy(tuple(given))
    try:
        with np.errstate(all="ignore"):
            value = run(function, *arguments) if run else function(*arguments)
    except Exception as error:
        return Outcome(None, arguments, f"{type(error).__name__}: {error}")
    return Outcome(value, arguments)


def agrees(
    report: Report,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    arguments: SearchStrategy[tuple[Any, ...]],
    close: float = 0.0,
    scratch: Sequence[int] = (),
    examples: int = EXAMPLES,
    name: str = "",
    run: Callable[..., Any] | None = None,
) -> None:
    """Claim that the function does what the reference does, whatever it was called with before.

    close: the relative difference allowed between numbers. scratch: positions of arguments that may end with any value.
    run(function, *arguments): use the function, return all that counts. By default, call it.
    """
    name = name or reference.__name__
    seen: list[tuple[Any, ...]] = []
    failed: list[tuple[str, str]] = []

    def differs(function: Callable[..., Any], given: tuple[Any, ...]) -> str:
        return wrong(outcome(function, given, run), outcome(reference, given, run), close, scratch)

    def fails(given: tuple[Any, ...]) -> bool:
        seen.append(copy.deepcopy(given))
        if told := differs(function, given):
            failed.append((called(given), told))
        return bool(told)

    given = smallest(arguments, fails, examples)
    if failed:
        call, told = min(failed, key=lambda pair: len(pair[0])) if given is None else failed[-1]
        again = given is not None and differs(fresh(function), given)
        report.true("drawn", False, f"{name}({call}) {told}{'' if again else KEPT}", f"{call} {told}")
        return
    keeps_nothing(report, function, reference, seen[-AGAIN:], close, name, run)


def keeps_nothing(
    report: Report,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    seen: Sequence[tuple[Any, ...]],
    close: float,
    name: str,
    run: Callable[..., Any] | None,
) -> None:
    """Claim that calls do not affect each other: make them in another order, then each in a fresh module."""
    results, tried = [], [(given, outcome(reference, given, run)) for given in seen]
    for given, right in reversed(tried):
        got = outcome(function, given, run)
        told = wrong(got, right, close, range(len(given)))
        new = told and wrong(outcome(fresh(function), given, run), right, close, range(len(given)))
        again = f"{name}({called(given)}), called a second time, {told}: something is kept between calls"
        if not report.true("second call", not told, f"{name}({called(given)}) {told}" if new else again, again):
            return
        results.append((given, got.value, copy.deepcopy(got.value)))
    for given, value, before in results:
        same = not apart(value, before, 0)
        changed = f"what {name}({called(given)}) returned is changed by later calls: return a new one each time"
        if not report.true("earlier result", same, changed, changed):
            return
    for given, value, _ in results:
        both = f"{name}({called(given)}) returns the same {type(value).__name__} in every call: return a new one"
        if not report.true("new result", not shared(value, outcome(function, given, run).value), both, both):
            return
    for given, right in tried:
        told = wrong(outcome(fresh(function), given, run), right, close, range(len(given)))
        first = f"{name}({called(given)}), as the first call in a new process, {told}: only the arguments may count"
        if not report.true("first call", not told, first, first):
            return


def shared(a: Any, b: Any) -> bool:
    """Return whether two results are or contain the same array, list, or dictionary."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.shares_memory(a, b)
    if isinstance(a, (list, dict)) and a is b:
        return True
    pairs = (a.values(), b.values()) if isinstance(a, dict) and isinstance(b, dict) else (a, b)
    return isinstance(a, (list, tuple, dict)) and any(map(shared, *pairs))


def fresh(function: Callable[..., Any], alone: bool = False) -> Callable[..., Any]:
    """Return the function from a new import of the student's file; the function itself if it has none.

    alone: it will run next to others.
    """
    if isinstance(function, Apart):
        return function.fresh(alone)
    if function.__module__ != "exercise":
        return function
    module = load(Path(inspect.unwrap(function).__code__.co_filename))
    return getattr(module, function.__name__, function)


def agrees_on_ranks(
    report: Report,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    strategy: SearchStrategy[Any],
    run: Run,
    sizes: Sequence[int] = (2, 3, 4, 1),
    close: float = 0.0,
    examples: int = 8,
    traffic: bool = True,
) -> None:
    """Claim that on any number of ranks each gets what it gets with the reference, and together they send as much.

    run(function, comm, value): make this rank's arguments, call the function, return all that counts. Ranks are threads
    of this process, each with its own import of the student's file, as processes have. Only rank 0 of the check does
    this.
    """
    if report.rank:
        return
    copies = [fresh(function, alone=True) for _ in range(max(sizes))]
    seen: list[Any] = []

    def keep(given: Any) -> bool:
        seen.append(given)
        return False

    smallest(strategy, keep, 10 * examples)
    for given in sorted(seen, key=lambda given: (len(repr(given)), repr(given)))[:: max(1, len(seen) // examples)]:
        for size in sizes:
            got, true = (together(size, run, of, given) for of in (copies, [reference] * size))
            about = f"{called((given,))} on {size} rank{'s' * (size > 1)}"
            what = str(got).rpartition(" raised ")[2][:40]  # which of the ranks raises first may vary
            if not report.true("ranks", isinstance(got, list), f"{about}: {got}", what):
                return
            for rank, (mine, right) in enumerate(zip(got[:-1], true[:-1], strict=True)):
                told = apart(mine, right, close)
                told = told and f"{about}: rank {rank} has {told}"
                if not report.true("rank's result", not told, told, told):
                    return
            sent, theory = got[-1], true[-1]
            told = f"{about}: together the ranks send {sent:,} bytes; {theory:,} are needed"
            if traffic and not report.true("traffic", sent == theory, told, told):
                return


def together(size: int, run: Run, functions: Sequence[Callable[..., Any]], given: Any) -> list[Any] | str:
    """Return the ranks' results and, last, the bytes that all have sent; or what went wrong."""
    ledgers: Counter[int] = Counter()

    def program(world: Communicator) -> Any:
        with Ledger().open() as ledger, np.errstate(all="ignore"):
            result = run(functions[world.rank], world, copy.deepcopy(given))
        ledgers[world.rank] = ledger.bytes.total() + ledger.charged.total()
        return result

    try:
        return [*threads.run(size, program, timeout=4 * WAIT, wait=WAIT), ledgers.total()]
    except (RuntimeError, TimeoutError) as error:
        return str(error).partition("\nall ranks must make")[0]  # the rest is for programs


def smallest(strategy: SearchStrategy[Any], fails: Callable[[Any], bool], examples: int) -> Any:
    """Return the simplest value drawn that fails; None if none does, or does so twice."""
    try:
        return find(strategy, fails, settings=settings(QUIET, max_examples=examples), random=Random(1))
    except (NoSuchExample, Flaky):
        return None


def wrong(got: Outcome, true: Outcome, close: float, scratch: Sequence[int]) -> str:
    """Say how the outcome differs from the reference's; "" if it does not."""
    if got.raised or true.raised:
        if got.raised.partition(":")[0] == true.raised.partition(":")[0]:
            return ""
        must = "raise no error" if isinstance(true.value, dict) else str(true).replace("s ", " ", 1)
        return f"{got}; it must {must}"
    if told := apart(got.value, true.value, close):
        return f"{'gives' if isinstance(true.value, dict) else 'returns'} {told}"
    for i, (mine, right) in enumerate(zip(got.after, true.after, strict=True)):
        if i not in scratch and (told := apart(mine, right, close)):
            return f"leaves argument {i + 1} as {told}"
    return ""


def apart(got: Any, true: Any, close: float) -> str:
    """Say in which way two results differ: "2; right is 3"; "" if they do not. NumPy's numbers are numbers.

    Of dictionaries with the same keys, the first value that differs is named by its key.
    """
    kind = next(kind for kind in (bool, int, float, list, tuple, dict, np.ndarray, object) if is_a(true, kind))
    if not is_a(got, kind) and not (kind is float and is_a(got, int)):
        return f"{shown(got)}, of type {type(got).__name__}; right is {shown(true)}"
    if kind is np.ndarray and (got.dtype != true.dtype or got.shape != true.shape):
        return f"an array of {got.dtype}, shape {got.shape}; right is {true.dtype}, shape {true.shape}"
    if kind is dict and got.keys() == true.keys():
        told = ((key, apart(got[key], true[key], close)) for key in true)
        return next((f"{key!r}: {part}" for key, part in told if part), "")
    if kind in (list, tuple, dict):
        same = len(got) == len(true) and kind is not dict
        same = same and not any(apart(a, b, close) for a, b in zip(got, true, strict=True))
    elif kind in (int, float, np.ndarray):
        same = bool(np.allclose(got, true, rtol=close, atol=close, equal_nan=True)) if close else equal(got, true)
    else:
        same = bool(stepped(got) == stepped(true))
    return "" if same else f"{shown(got)}; right is {shown(true)}"


def stepped(value: Any) -> Any:
    """Return a slice with its step, which is 1 if none is given; any other value as it is."""
    return slice(value.start, value.stop, value.step or 1) if isinstance(value, slice) else value


def equal(got: Any, true: Any) -> bool:
    """Return whether numbers or arrays are equal; NaN equals NaN."""
    return bool(np.array_equal(got, true, equal_nan=np.asarray(true).dtype.kind in "fc"))


def is_a(value: Any, kind: type) -> bool:
    """Return whether the value is of this kind; a bool is no int, and NumPy's numbers count as numbers."""
    kinds: dict[type, Any] = {bool: (bool, np.bool_), int: (int, np.integer), float: (float, np.floating)}
    return isinstance(value, kinds.get(kind, kind)) and not (kind is int and isinstance(value, bool))


def called(given: Sequence[Any]) -> str:
    """Return the arguments as in a call."""
    return ", ".join(shown(argument) for argument in given)


def shown(value: Any) -> str:
    """Return a value in at most 160 characters; powers of two as such, arrays as lists."""
    if isinstance(value, np.ndarray):
        text = f"{value.dtype} {value.tolist()}"
    elif is_a(value, float) and abs(value) >= 2**10 and np.log2(abs(value)).is_integer():
        text = f"{'-' if value < 0 else ''}2.0**{int(np.log2(abs(value)))}"
    else:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 160 else text[:157] + "..."
