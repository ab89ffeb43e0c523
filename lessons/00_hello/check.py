"""Checks of this lesson's exercises: compare each rank's output and count the calls."""

import contextlib
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, cast

import numpy as np
from hypothesis import strategies as st

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks
from minitrain.observe.ledger import Ledger
from minitrain.runtime import output

from .drawn import ARRAYS, TEXTS, Texts, swapped_twice
from .lesson import swap as model_solution
from .programs import six_lines

LARGE = 2**19  # float64 numbers: 4 MB, too large for any MPI to buffer until the receiver arrives
PATIENCE = 2.0  # seconds until the check says what a blocked call may be waiting for
WAITS = {
    "receive": "If every rank receives before it sends, nothing is on its way.",
    "wait": "A large message is sent only when its receiver has called receive.",
    "gather_objects": "It returns when every rank has called it.",
    "barrier": "It returns when every rank has called it.",
}


def printed(ranks: int) -> list[str]:
    """Return the lines that `six_lines` prints on `ranks` ranks, in order: a list such as ["rank 0 has 7", ...].

    The program is on the lesson's page, under "The code". Write down what it prints on 4 ranks first.
    """
    mine = [10 if rank == 2 else rank for rank in range(ranks)]
    return [f"rank {rank} has {mine[rank] + mine[rank - 1]}" for rank in range(ranks)]


# Checks ---------------------------------------------------------------------------------------------------------------


def check_00_1(world: Communicator, print_in_order: Callable[..., None], report: Report) -> None:
    """Check with texts that are unsorted, repeated or several lines long."""
    rounds = (["zebra", "ant", "ant"], ["one line", "two\n  lines", ""])
    for texts in rounds:
        watched, page = Watched(world), Page()
        with remark(watched, report):
            print_in_order(watched, texts[world.rank], page)
        wrote, calls = page.getvalue(), f"{watched.calls['barrier']} barriers"
        if world.rank == 0:
            all_texts = "".join(f"{text}\n" for text in texts)
            sentence = f"of the texts {texts} rank 0 wrote {wrote!r} to file; expected {all_texts!r}"
            sentence += remedy(wrote, all_texts, f"{texts[0]}\n")
            report.true("text", wrote == all_texts, sentence, f"{wrote!r}, {calls}")
            waiting = len(wrote) - len(page.left)
            sentence = f"{waiting} characters are still in rank 0's buffer when print_in_order returns: use flush=True"
            report.true("flushed", page.left == wrote, sentence, waiting)
            sentence = f"the text is written in {page.pieces} pieces, and another rank's output can come between them: "
            report.true(
                "pieces", page.pieces <= 1, f"{sentence}join the texts and print once", f"{page.pieces}, {page.flushed}"
            )
            report.true("open", not page.shut, "print_in_order closed the file; the caller may want to write more")
        else:
            sentence = f"rank {world.rank} wrote {wrote!r}; only rank 0 may print, or lines of several ranks get mixed"
            report.true("silent", not wrote, sentence, f"{wrote!r}, {calls}")
        sentence = "no method of `world` was called (was something else called, such as mpi4py?)"
        report.true("asked", watched.calls.total(), sentence)
    terminal = Page()
    with contextlib.redirect_stdout(terminal) if world.rank == 0 else contextlib.nullcontext():
        print_in_order(world, "to the terminal")
    report.true("terminal", world.rank or terminal.getvalue(), "with no file given, nothing is printed on the terminal")
    if report.ok:
        screen = Screen()
        with contextlib.redirect_stdout(cast(Any, screen)) if world.rank == 0 else contextlib.nullcontext():
            agrees_on_ranks(report, print_in_order, output.print_in_order, TEXTS, screen.after, traffic=False)


def check_00_2(world: Communicator, swap: Callable[..., Any], report: Report) -> None:
    """Check small and large messages in a ring, the waits on their handles, and the number of messages."""
    kept = []  # keeps buffers alive in case the student's function never waited for a send
    for n in (3, LARGE):
        x = np.arange(n) + 1e7 * world.rank
        before, watched = x.copy(), Watched(world)
        with Ledger().open() as ledger, remark(watched, report, f"{n * 8:,} bytes: "):
            came = swap(watched, x)
        kept += [x, came]
        source = (world.rank - 1) % world.size
        right = isinstance(came, np.ndarray) and np.array_equal(came, np.arange(n) + 1e7 * source)
        told = f"{n * 8:,} bytes: rank {world.rank}"
        found = origin(came, n)
        report.true("came", right, f"{told} returned {found}; expected the array of rank {source}", found)
        report.true("kept", np.array_equal(x, before), f"{told} changed x, which it only has to send")
        sent, calls = ledger.messages.total(), watched.calls
        silent = "" if calls.total() else " (was something other than `world` called, such as mpi4py?)"
        sentence = f"{told} sent {sent:,} messages by world.send; expected 1{silent}"
        report.true("messages", sent == 1, sentence, f"{sent} messages, {calls['gather_objects']} gathers")
        sentence = f"{told} returned with {watched.open:,} of its sends incomplete: call wait on the handle of send"
        report.true("waited", watched.open == 0, sentence, watched.open)
    for shape in ((2, 3), ()):
        kept.append(swap(Watched(world), np.ones(shape)))
        told = f"given an array of shape {shape}, rank {world.rank} returned one of shape {np.shape(kept[-1])}"
        report.true(f"shape {shape}", np.shape(kept[-1]) == shape, told, str(np.shape(kept[-1])))
    if report.ok:
        agrees_on_ranks(report, swap, model_solution, ARRAYS, swapped_twice, sizes=(2, 3, 4, 5))


def check_00_3(world: Communicator, predicted: Callable[[int], list[str]], report: Report) -> None:
    """Compare the prediction with the program's output."""
    for ranks in (4, 3, 1, 6):
        page = io.StringIO()
        threads.run(ranks, lambda rank, page=page: six_lines(rank, page))  # type: ignore[misc]
        said, true = predicted(ranks), page.getvalue().splitlines()
        if not report.true("list", isinstance(said, list), f"return a list of lines, not {said!r}"):
            return
        texts = all(isinstance(line, str) for line in said)
        if not report.true("texts", texts, f"each line must be a string, such as 'rank 0 has 7', not {said!r}", said):
            return
        first = next((i for i, (a, b) in enumerate(zip_longest(said, true), 1) if a != b), 0)
        yours = repr(said[first - 1]) if 0 < first <= len(said) else "missing"
        told = f"on {ranks} ranks line {first} of the output is not {yours}"
        told += remedy_of_lines(said, true)
        report.true(f"{ranks} ranks", not first, told, said)
    if report.ok:
        agrees(report, predicted, printed, st.tuples(st.integers(1, 12)))


# Instruments ----------------------------------------------------------------------------------------------------------


class Watched:
    """Communicator that counts calls, and sends whose wait was not called. last: the most recent call."""

    def __init__(self, world: Communicator) -> None:
        self.world, self.calls, self.open, self.last = world, Counter[str](), 0, ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.world, name)
        if callable(found):
            self.calls[name] += 1
            self.last = name
        return found

    def send(self, *arguments: Any, **named: Any) -> "_Handle":
        self.calls["send"] += 1
        self.open += 1
        return _Handle(self, self.world.send(*arguments, **named))


class _Handle:
    def __init__(self, watched: Watched, handle: Any) -> None:
        self.watched, self.handle, self.awaited = watched, handle, False

    def wait(self) -> None:
        self.watched.last = "wait"
        self.handle.wait()
        self.over()

    def done(self) -> bool:
        if done := self.handle.done():
            self.over()
        return bool(done)

    def over(self) -> None:
        self.watched.open -= not self.awaited
        self.awaited = True


class Page(io.StringIO):
    """File that records what has left its buffer, in how many pieces it was written, and whether it was closed."""

    left, pieces, flushed, shut = "", 0, 0, False

    def write(self, text: str) -> int:
        self.pieces += bool(text.strip())
        return super().write(text)

    def flush(self) -> None:
        super().flush()
        self.flushed += self.left != self.getvalue()
        self.left = self.getvalue()

    def close(self) -> None:
        self.shut = True


class Screen(threading.local):
    """sys.stdout of ranks that are threads: each has a page of its own."""

    def __init__(self) -> None:
        self.page = Page()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def after(self, print_in_order: Callable[..., None], world: Communicator, given: Texts) -> dict[str, Any]:
        """Call the function; return what this rank has written, and what waits in a buffer."""
        file = Page()
        print_in_order(world, given.texts[world.rank], *([file] if given.to_file else []))
        written = "written, though only rank 0 may print," if world.rank else "written"
        return {
            f"{written} to file": file.getvalue(),
            f"{written} to sys.stdout": self.page.getvalue(),
            "written it in pieces": file.pieces + self.page.pieces,
            "left characters in a buffer": sum(len(page.getvalue()) - len(page.left) for page in (file, self.page)),
            "closed its file": file.shut or self.page.shut,
        }


@contextlib.contextmanager
def remark(watched: Watched, report: Report, about: str = "") -> Iterator[None]:
    """Add a remark on what may be wrong if the student's function does not return."""

    def tell() -> None:
        why = WAITS.get(watched.last, "It has not called anything that blocks.")
        report.remarks.append(f"{about}no return from {watched.last or 'it'} after {PATIENCE:.0f} s. {why}")

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def remedy(wrote: str, expected: str, own: str) -> str:
    """Return advice for rank 0, which wrote the wrong text."""
    if not wrote:
        return " (nothing was written: is print called, and with file=file?)"
    if wrote == own:
        return " (only its own text: gather the texts of the others on rank 0 first)"
    if wrote == f"{expected}\n":
        return " (an empty line at the end: print adds a newline)"
    return ""


def remedy_of_lines(said: list[str], true: list[str]) -> str:
    """Return advice for lines that differ only in newlines."""
    if any("\n" in line for line in said) and "\n".join(said).split() == "\n".join(true).split():
        return " (leave out the newline that print writes after each line)"
    return ""


def origin(came: Any, n: int) -> str:
    """Say which rank's array this is."""
    if not isinstance(came, np.ndarray) or came.shape != (n,):
        return f"{type(came).__name__} {getattr(came, 'shape', '')}".strip()
    rank = int(came[0] // 1e7)
    whole = np.array_equal(came, np.arange(n) + 1e7 * rank)
    return f"the array of rank {rank}" if whole else f"an array of no rank, {came[:2]}..."
