"""The process of a student's function: it imports exercise.py, calls the function when told to, and says what came out.

    nursery            has imported the library and nothing of the course; forks
      student          one for each copy of the function that must run next to others

The judge (apart.py) has the check, the references and the ranks. What reaches the judge is plain data (messages.py), so
whatever the student's file does, it can change this process only. See locked.py for what it cannot do here.
"""

import ast
import contextlib
import importlib
import io
import json
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from itertools import chain
from pathlib import Path
from threading import RLock
from types import FrameType, ModuleType
from typing import Any, NoReturn, cast

import numpy as np

from . import locked
from .messages import BROKEN, Line, Malformed, classes_of, rebuilt
from .remote import ARRIVE, Handle, Thing
from .table import Table, looks

PRINTED, KEPT = 10, 1000  # lines and characters shown of what a student's function prints


def load(path: Path) -> ModuleType:
    """Import the student's file, or a mutant, as a module."""
    spec = spec_from_file_location("exercise", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Printed(io.TextIOBase):
    """What the student's function prints: its beginning is kept, the rest is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.size = "", 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Keep the text if there is room for it, and return its length."""
        self.kept += text[: max(0, KEPT - len(self.kept))]
        self.size += len(text)
        return len(text)

    def lines(self) -> list[str]:
        """Return what is shown: a few lines, and how much is left out."""
        shown = self.kept.splitlines()[:PRINTED]
        more = self.size - len("\n".join(shown))
        return shown + ([f"... and {more:,} more characters"] if more > 1 else [])  # one: the last newline


# The nursery ----------------------------------------------------------------------------------------------------------


def nursery(requests: socket.socket) -> NoReturn:
    """Fork a student for each wish that comes through the socket. End with them all when the judge has gone."""
    locked.folders()  # found once for all
    line, students = Line(requests.fileno(), requests.fileno()), set[int]()
    with contextlib.suppress(EOFError, OSError, Malformed):
        while True:
            wish, _ = line.read()
            collect(students)
            prepare(Path(wish["file"]))
            pipes = hears, tells, shows = os.pipe(), os.pipe(), os.pipe()  # to the student; from it; its line, if asked
            if (process := os.fork()) == 0:
                keep_open(hears[0], tells[1], shows[1])
                Student(Line(hears[0], tells[1]), shows[1], wish).serve()
            students.add(process)
            socket.send_fds(requests, [str(process).encode()], [tells[0], hears[1], shows[0]])
            for file in chain(*pipes):
                os.close(file)
    for process in students:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)
    os._exit(0)


def collect(students: set[int]) -> None:
    """Remove the students that have ended. From then on, the system may give their numbers to any process."""
    while students and (ended := os.waitpid(-1, os.WNOHANG)[0]):
        students.discard(ended)


def prepare(file: Path) -> None:
    """Import those modules of the library that a student's file imports: the student cannot open them."""
    started = sys.modules.get("mpi4py")
    sys.modules["mpi4py"] = cast(Any, started)  # None: MPI, which starts when it is imported, cannot be
    with contextlib.suppress(OSError):
        for name in modules(file, file.stat().st_mtime_ns):
            with contextlib.suppress(Exception):  # the student's own import raises it again
                importlib.import_module(name)
    if started is None:
        del sys.modules["mpi4py"]


@lru_cache(10)
def modules(file: Path, changed: int) -> list[str]:
    """Return the modules of the library that a file imports. changed: when it was last changed."""
    found: set[str] = set()
    with contextlib.suppress(Exception):  # the student's own import of the file raises it again
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(name for name in found if name.startswith("minitrain.") and not re.search("lessons|__", name))


def keep_open(*kept: int) -> None:
    """Close all files but these and the three standard ones."""
    lo = 3
    for file in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(lo, file)
        lo = file + 1


# A student ------------------------------------------------------------------------------------------------------------


class Student:
    """The state of the process: its connection, its numbered objects, and the copies of the student's function."""

    def __init__(self, line: Line, shows: int, wish: dict[str, Any]) -> None:
        """wish: file, function, target. shows: a pipe for the line that is running, when asked."""
        self.line, self.shows, self.file, self.function = line, shows, wish["file"], wish["function"]
        self.table, self.lock = Table(1), RLock()
        self.table.arrive = ARRIVE
        self.functions: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}  # raised by the judge, number -> as it was raised here
        self.printed = sys.stdout = cast(Any, Printed())
        sys.argv, self.leave, os._exit = [self.file], os._exit, self.told_to_leave  # type: ignore[assignment]
        signal.signal(signal.SIGUSR1, self.show_line)
        Thing.asks = self.ask
        os.chdir(Path(self.file).parent)
        locked.forget(wish["target"])
        locked.lock(Path(self.file).parent)

    def serve(self) -> NoReturn:
        """Do what the judge says until it has gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                (kind, copy, *rest), data = self.line.read()
                self.table.tick()
                self.table.begin(data)
                try:
                    value = self.called(copy, *rest) if kind == "call" else self.loaded(copy)
                except BaseException as error:
                    self.answer("raised", partial(self.about, error))
                else:
                    self.answer("returned", partial(self.result, value))
        self.leave(0)

    def answer(self, kind: str, about: Callable[[], tuple[Any, ...]]) -> None:
        """Send the end of a call. If it is too large or too deep, say so instead, and end: half of it may be known."""
        try:
            self.table.begin()
            self.line.write([kind, *about(), self.said()], self.table.data)
        except BROKEN as error:
            self.line.write(["broken", f"{type(error).__name__}: {error}"])
            self.leave(0)

    def loaded(self, copy: int) -> Any:
        """Import the file once more. There is no result."""
        self.functions[copy] = getattr(load(Path(self.file)), self.function)
        return None

    def called(self, copy: int, quiet: bool, given: Any, named: Any, changed: Any) -> Any:
        """Return what the function returns."""
        arguments, options = self.table.unpack(given), self.table.unpack(named)
        self.table.apply(changed)
        with np.errstate(all="ignore") if quiet else contextlib.nullcontext():
            return self.functions[copy](*arguments, **options)

    def result(self, value: Any) -> tuple[Any, Any]:
        """Describe a result, and what has changed."""
        return self.table.pack(value), self.table.changes(self.table.recent(all_of_it=True))

    def about(self, error: BaseException) -> tuple[Any, ...]:
        """Describe an exception: the judge's number of it, its classes, its text, and the line that it comes from."""
        number = next((number for number, known in self.errors.items() if known is error), None)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.file]
        line = [frames[-1].lineno, frames[-1].name] if frames else None
        try:
            text = str(error)
        except Exception:
            text = looks(error)
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")[: 10**5]
        return number, classes_of(error), text, line

    def ask(self, thing: Thing, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Let the judge call a method of something that stays there, and return the result."""
        with self.lock:
            table, array = self.table, next((x for x in given if isinstance(x, np.ndarray)), None)
            table.begin()
            tree = ["do", thing.number, name, self.place(array), table.pack(given), table.pack(named)]
            mine = list(table.entered)
            changed = table.changes(thing.concerns(table))
            self.line.write([*tree, changed, self.said()], table.data)
            (kind, *rest, changed), data = self.line.read()
            table.begin(data)
            value = table.unpack(rest[0]) if kind == "done" else None
            table.apply(changed)
            if isinstance(value, Handle):  # its wait may want to know whether the array has changed
                value.array = array
            else:
                table.forget(mine)
            if kind == "failed":
                number, names, text = rest
                self.errors[number] = rebuilt(names, text)
                raise self.errors[number]
        return value

    def place(self, array: Any = None) -> tuple[int, str, str]:
        """Return the line of the student's file that is running, its function, and the array's names there."""
        frame = frame_in(sys._getframe(), self.file)
        if frame is None:
            return 0, "", ""
        names = sorted(name for name, it in frame.f_locals.items() if it is array and array is not None)
        return frame.f_lineno, frame.f_code.co_name, ", ".join(names)

    def said(self) -> tuple[str, int]:
        """Return what was printed since the last message, and its size."""
        text, size = self.printed.kept, self.printed.size
        self.printed.kept, self.printed.size = "", 0
        return text, size

    def show_line(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal by which the judge asks for the line that is running."""
        found = frame_in(frame, self.file)
        told = [found.f_lineno if found else 0, self.printed.kept, self.printed.size]
        os.write(self.shows, json.dumps(told).encode())

    def told_to_leave(self, status: int) -> None:
        """Take the place of os._exit, which would end this process without a word."""
        self.line.write(["ended", self.place()[0], self.said()])
        self.leave(status)


def frame_in(frame: FrameType | None, file: str) -> FrameType | None:
    """Return the innermost frame in this file, from this frame outwards."""
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame
