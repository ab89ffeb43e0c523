"""What a run prints, on rank 0: its lines, and how far it is.

    progress = Progress(world)
    for batch in progress.watch(batches, 40, "validation"):
        ...
    with progress.task("saving the model"):                 a thread shows that it lives, however long it takes
        ...
    with progress.task("training", 1000, "updates") as task:
        for update in task.watch(updates):
            task.note = f"loss {update.loss:.3f}"

In a terminal, the outermost task is a bar on the last line, and the innermost one follows it:

    training ##########-------------------- 412/1,000 updates  loss 2.345  0:31 left  validation 7/20 batches

Elsewhere (files, pipes, notebooks) both are printed as a line whenever there was none for two seconds:

    training: 412 of 1,000 updates; validation: 7 of 20 batches
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TextIO, TypeVar

from ..comm.communicator import Communicator
from ..environment import launched
from ..runtime.terminal import LINE, Terminal, find_terminal

QUIET = 2.0  # seconds a task may run without printing
PULSE = 0.25  # seconds between two looks of the thread
FRAME = 0.1  # seconds between two frames of the bar, at least
SHORT = 0.5  # seconds that a task runs before its bar is drawn: most are shorter
BAR = 30, 8  # columns of the bar: at most, at least

Item = TypeVar("Item")


class Progress:
    """The output of one run."""

    def __init__(self, world: Communicator | None = None, lines: TextIO | None = None) -> None:
        """world: None: there are no ranks, but mpirun may have started several processes; only the first one prints.
        lines: where lines of progress go if there is no terminal; None: standard output.

        Raise UserError for a wrong MINITRAIN_PROGRESS.
        """
        self.rank, self.lines = 0 if world is None else world.rank, lines
        self.terminal = find_terminal()
        self.shows = self.rank == 0 and launched()[1] == 0  # a world may consist of any one rank

    @property
    def quiet(self) -> bool:
        """Whether it is time for a line: there is no bar, and nothing was printed for a while."""
        return self.terminal is None and self.shows and monotonic() - SHOWN.printed > QUIET

    def log(self, text: str) -> None:
        """Print whole lines on rank 0 and flush, since under mpirun output may be buffered."""
        if self.rank == 0:
            SHOWN.print(text, None)

    def watch(self, items: Iterable[Item], count: int, name: str = "", what: str = "batches") -> Iterator[Item]:
        """Yield the items, and show how many of `count` are done whenever it is time to.

        While a single item takes long, it is shown only inside of a `task`.
        """
        task = Task(self, name, count, what)
        with SHOWN.holding(task):
            yield from task.watch(items)

    @contextmanager
    def task(self, name: str, count: int = 0, what: str = "", done: int = 0) -> Iterator["Task"]:
        """Show a task until the `with` ends. count: of `what` in all, 0 if unknown. done: by an earlier process."""
        task = Task(self, name, count, what, done)
        with SHOWN.holding(task), SHOWN.beating(task):
            yield task


class Task:
    """Something that takes a while: how much of it is done, and since when."""

    def __init__(self, progress: Progress, name: str, count: int, what: str, done: int = 0) -> None:
        self.progress, self.name, self.count, self.what = progress, name, count, what
        self.done = self.before = done
        self.begun = self.moved = monotonic()  # moved: when the last one was done
        self.note = ""  # shown in the bar instead of the rate

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; one is done when the next is requested."""
        for item in items:
            yield item
            self.advance()

    def advance(self, count: int = 1) -> None:
        """Add to what is done, and show it if it is time to."""
        self.reach(self.done + count)
        if self.done != self.count:
            SHOWN.show(self, self.line)

    def reach(self, done: int) -> None:
        """Set what is done."""
        self.done, self.moved = done, monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the task began."""
        return max(monotonic() - self.begun, 1e-9)

    @property
    def rate(self) -> float:
        """What is done in a second, on average."""
        return (self.done - self.before) / self.seconds

    @property
    def left(self) -> str:
        """The time that is left at this rate: "1:05 left"; "" if it is unknown."""
        known = self.count and self.done > self.before
        return f"{clock((self.count - self.done) / self.rate)} left" if known else ""

    def line(self) -> str:
        """Return the task as a line: "validation: 7 of 20 batches"."""
        many = f"{self.done:,} of {self.count:,}" if self.count else f"{self.done:,}"
        since = clock(self.seconds) if self.seconds >= 1 else ""
        return ": ".join(filter(None, [self.name, f"{many} {self.what}" if self.what else since]))

    @property
    def wait(self) -> str:
        """How long nothing was done: "0:12 in the next", "" if it is not long."""
        seconds = monotonic() - self.moved
        return f"{clock(seconds)} in the next" if self.what and seconds >= QUIET else ""

    def waiting(self) -> str:
        """Return the task as a line that says how long nothing was done."""
        return "; ".join(filter(None, [self.line(), self.wait]))

    def short(self) -> str:
        """Return the task in a few words: "validation 7/20 batches"."""
        many = f"{self.done:,}/{self.count:,}" if self.count else f"{self.done:,}"
        return " ".join(filter(None, [self.name, f"{many} {self.what}" if self.what else clock(self.seconds)]))


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, or with hours: "1:05", "2:00:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Shown:
    """What this process shows: its tasks, the outermost first, and a thread that shows them while nothing is done."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tasks: list[Task] = []
        self.printed, self.framed = monotonic(), 0.0  # times of the last line and the last frame
        self.thread: threading.Thread | None = None
        self.end = threading.Event()

    def print(self, text: str, file: TextIO | None) -> None:
        """Print lines in one piece, to standard output by default."""
        with self.lock:
            self.printed = monotonic()
            print(f"{text}\n", end="", file=file or sys.stdout, flush=True)

    def show(self, task: Task, line: Callable[[], str]) -> None:
        """Draw the bar, or print the line of a task, if it is time to."""
        progress = task.progress
        if progress.terminal is not None and progress.shows:
            self.draw(progress.terminal)
        elif progress.quiet:
            outer = [outer.line() for outer in self.tasks if outer.count and outer is not task][:1]
            self.print("; ".join([*outer, line()]), progress.lines)

    def draw(self, terminal: Terminal) -> None:
        """Draw the bar, if the outermost task is not new and the last frame not too recent."""
        now, tasks = monotonic(), [*self.tasks]
        if tasks and now - tasks[0].begun > SHORT and now - self.framed > FRAME:
            self.framed = now
            LINE.open(terminal)
            LINE.draw(drawing(tasks, terminal.columns()))

    @contextmanager
    def holding(self, task: Task) -> Iterator[None]:
        """Have a task within the `with`, as the innermost one. After the outermost one, the bar disappears."""
        if task.progress.shows:
            if not self.tasks and monotonic() - self.printed > QUIET:
                self.printed = monotonic()  # there was nothing to show: the silence begins now
            self.tasks.append(task)
        try:
            yield
        finally:
            if task in self.tasks:
                self.tasks.remove(task)
            if not self.tasks:
                LINE.close()

    @contextmanager
    def beating(self, task: Task) -> Iterator[None]:
        """Have a thread within the `with` that shows the innermost task, unless one runs already."""
        if self.thread is not None or not task.progress.shows:
            yield
            return
        thread, self.end = threading.Thread(target=self.beat, daemon=True, name="progress"), threading.Event()
        self.thread = thread
        thread.start()
        try:
            yield
        finally:
            self.thread = None
            self.end.set()
            thread.join()

    def beat(self) -> None:
        """Show the innermost task now and then. The thread ends quietly if its output is lost: so is that of the main
        thread, which reports it."""
        with suppress(OSError):
            while not self.end.wait(PULSE):
                for task in self.tasks[-1:]:
                    self.show(task, task.waiting)


SHOWN = Shown()


def drawing(tasks: Sequence[Task], columns: int) -> str:
    """Return the bar of the outermost task that can be counted, and the innermost task, in less than `columns` columns.

    If there is little room, the bar becomes shorter; if there is less, it is left out, and the text is cut.
    """
    from rich.cells import cell_len, set_cell_size

    outer, inner = next((task for task in tasks if task.count), tasks[0]), tasks[-1]
    more = [outer.note or (f"{outer.rate:.3g}/s" if outer.rate else ""), outer.left if outer.count else ""]
    more += [inner.short() if inner is not outer else "", inner.wait]
    if not outer.count:
        text = "  ".join(filter(None, [outer.short(), *more]))
        return set_cell_size(text, min(cell_len(text), columns - 1))
    text = "  ".join(filter(None, [f"{outer.done:,}/{outer.count:,} {outer.what}", *more]))
    begin = f"{outer.name} " if outer.name else ""
    room = min(columns - 1 - cell_len(begin) - cell_len(text) - 1, BAR[0])
    if room < BAR[1]:
        return set_cell_size(begin + text, min(cell_len(begin + text), columns - 1))
    return f"{begin}{bar(outer.done, outer.count, room)} {text}"


def bar(done: int, count: int, width: int) -> str:
    """Return a bar of this width in the terminal's own color, what is left dim: readable on white and on black.

    If NO_COLOR is set, or the terminal has no colors, it consists of # and -.
    """
    from rich.console import Console
    from rich.progress_bar import ProgressBar

    console = Console(file=LINE.out, force_terminal=True, force_jupyter=False, width=width, legacy_windows=False)
    if console.no_color or console.color_system is None:
        return f"{'#' * (width * done // count):-<{width}}"
    with console.capture() as captured:
        console.print(
            ProgressBar(count, done, width, style="dim", complete_style="none", finished_style="none"), end=""
        )
    return captured.get()
