"""The terminal that shows what rank 0 prints, and its last line, on which progress is drawn.

One process asks its own standard output whether it is a terminal. A rank cannot: its output is a pipe under MPICH, even
in a terminal, and a terminal under Open MPI, even if mpirun writes to a file. It looks at the launcher's output, which
Linux shows:

    rank 0  ->  (hydra_pmi_proxy)  ->  mpirun      /proc/PID/fd/1  ->  /dev/pts/3

Where the launcher cannot be seen (macOS, a rank on another host), there is no terminal.

The line has no newline, and the cursor stays visible at its end. Whatever else is printed erases the line first, so
that nothing is left to repair if the program ends at any moment, by whatever cause. MPICH's mpirun forwards the line at
once. Open MPI's waits for a newline or 4 KB, so that its rank 0 writes the line to the terminal itself.
"""

import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..environment import launched, progress_style
from ..errors import UserError

ERASE = "\r\x1b[2K"  # to column 0; erase the line
SETTLE = 0.25  # seconds that mpirun may take to forward what was printed, before the line follows
LAUNCHERS = re.compile(r"mpirun|mpiexec|prterun|orterun|prte$")  # hydra's mpiexec and mpirun are one program


class Terminal(NamedTuple):
    """A terminal. place: its descriptor, or a path in /proc; None: unknown. direct: the line is written there."""

    place: int | str | None
    direct: bool = False

    def open(self) -> TextIO:
        """Return a stream to write the line to."""
        if self.direct and isinstance(self.place, str):
            with suppress(OSError):
                file = os.open(self.place, os.O_WRONLY | os.O_NOCTTY)
                return os.fdopen(file, "w", encoding=sys.stdout.encoding, errors="replace")
        return sys.stdout

    def columns(self) -> int:
        """Return the width of the terminal; if it is unknown, COLUMNS, or 80."""
        with suppress(OSError):
            if isinstance(self.place, int):
                return os.get_terminal_size(self.place).columns or _columns()
            if self.place is not None:
                file = os.open(self.place, os.O_WRONLY | os.O_NOCTTY)
                try:
                    return os.get_terminal_size(file).columns or _columns()
                finally:
                    os.close(file)
        return _columns()


def _columns() -> int:
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else 80


def find_terminal() -> Terminal | None:
    """Return the terminal on which progress can be drawn; None if lines must do.

    MINITRAIN_PROGRESS decides if it is set. Raise UserError if it has a wrong value.
    """
    style = progress_style()
    if style == "plain":
        return None
    place = _place(1)
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    if style == "rich" or (place is not None and not dumb):
        return Terminal(place, direct=isinstance(place, str) and launched()[0] == "Open MPI")
    return None


def _place(descriptor: int) -> int | str | None:
    """Return the place of standard output (1) or standard error (2), as the user sees it, if it is a terminal."""
    if not launched()[0]:
        with suppress(AttributeError, OSError, ValueError):  # closed, or replaced, as in a notebook
            stream = sys.stdout if descriptor == 1 else sys.stderr
            return stream.fileno() if stream.isatty() else None
        return None
    pid = os.getppid()
    with suppress(OSError, ValueError, IndexError):  # no /proc, or the process is gone
        while pid > 1:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
            if LAUNCHERS.match(name):  # the closest one
                path = f"/proc/{pid}/fd/{descriptor}"
                return path if os.readlink(path).startswith(("/dev/pts/", "/dev/tty")) else None
            pid = int(rest.split()[1])
    return None


def fresh_line() -> str:
    """Return what to print before an error on standard error, on any rank: it erases the line that rank 0 may have
    drawn in the same terminal. It is "" if there can be none."""
    with suppress(UserError):  # a wrong MINITRAIN_PROGRESS is the error
        if find_terminal() is not None and _place(2) is not None:
            return ERASE
    return ""


class StatusLine:
    """The line that this process draws below all that it prints.

    While it is `open`, standard output and standard error are replaced by streams that erase it first. It is not drawn
    while a line of output is incomplete.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.out: TextIO | None = None
        self.guards: dict[str, Guard] = {}
        self.visible = self.incomplete = self.hushed = False
        self.written = 0.0  # time of the last output

    @property
    def direct(self) -> bool:
        """Whether the line goes another way than what is printed, which may arrive later."""
        return self.out is not None and self.guards["stdout"].stream is not self.out

    def open(self, terminal: Terminal) -> None:
        """Guard the two streams, and write the line to this terminal."""
        with self.lock:
            if self.out is None:
                self.out, self.incomplete = terminal.open(), False
                for name in ("stdout", "stderr"):
                    self.guards[name] = Guard(getattr(sys, name), self)
                    setattr(sys, name, self.guards[name])

    def close(self) -> None:
        """Erase the line and restore the streams, unless they have been replaced since."""
        with self.lock:
            self.erase()
            if self.direct and self.out is not None:
                self.out.close()
            for name, guard in self.guards.items():
                if getattr(sys, name) is guard:
                    setattr(sys, name, guard.stream)
            self.out, self.guards = None, {}

    def hush(self) -> None:
        """Erase the line and draw no more: another rank ends the job, and reports why."""
        with self.lock, suppress(OSError, ValueError):
            self.hushed = True
            self.erase()

    def draw(self, text: str) -> None:
        """Draw the line anew. text: shorter than the terminal is wide. Raise OSError if it cannot be written."""
        with self.lock:
            unsettled = self.direct and time.monotonic() - self.written < SETTLE
            if self.out is not None and not (self.incomplete or self.hushed or unsettled):
                self.out.write(ERASE + text)
                self.out.flush()
                self.visible = True

    def erase(self) -> None:
        """Erase the line, if it is drawn. Raise OSError if that cannot be written."""
        with self.lock:
            if self.visible and self.out is not None:
                self.visible = False
                self.out.write(ERASE)
                self.out.flush()


class Guard:
    """A stream that erases the line before it writes."""

    def __init__(self, stream: TextIO, line: StatusLine) -> None:
        self.stream, self.line = stream, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, as `TextIO.write` does."""
        with self.line.lock:
            if text:
                self.line.erase()
                self.line.written = time.monotonic()
                self.line.incomplete = not text.endswith("\n")
            return self.stream.write(text)


LINE = StatusLine()  # a process has one
