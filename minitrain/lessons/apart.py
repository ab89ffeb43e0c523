"""Judge a student's function that runs in a process of its own, which never sees the check or its references.

    judge: the check, its references, the ranks, the ledger    <- pipes ->    student.py: exercise.py

    nursery = apart.start(file)                      before MPI, threads and the course
    function = nursery.function(exercise, file)
    check(world, function, report)                   as if the function were here

A call sends its arguments and waits. Until the result comes, the student's function may ask for something that stays
here: an operation of a communicator, or a call of a function that it was given.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from . import remote, student
from .manifest import Exercise
from .messages import BROKEN, Line, Malformed, classes_of, rebuilt
from .table import Table

ANSWER = 0.5  # seconds in which a process says which line it is at
waiting: dict[int, "Process"] = {}  # thread -> whose process it waits for


class Ended(SystemExit):
    """The student's process has ended, or sends what it must not: the check cannot go on."""


def start(file: Path) -> "Nursery":
    """Fork the nursery for a student's file. Call it before MPI, threads and the course are there."""
    student.prepare(file)  # both processes need these modules
    here = os.path.realpath(os.curdir)  # the student's folder: what is written there must not be imported here
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        student.keep_open(theirs.fileno())
        student.nursery(theirs)
    theirs.close()
    return Nursery(ours)


class Nursery:
    """The process that forks students."""

    def __init__(self, requests: socket.socket) -> None:
        self.requests, self.lock = requests, threading.Lock()

    def function(self, exercise: Exercise, file: Path) -> "Apart":
        """Return the student's function. Raise what the import of the file raises."""
        return Apart(self, {"file": str(file), "function": exercise.function, "target": exercise.target})

    def process(self, wish: dict[str, Any]) -> "Process":
        """Return a new process. Raise Ended if there is none."""
        with self.lock:
            try:
                Line(self.requests.fileno(), self.requests.fileno()).write(wish)
                number, (hears, tells, shows), *_ = socket.recv_fds(self.requests, 20, 3)
            except (OSError, ValueError):
                raise Ended("the process of the function cannot be started") from None
        return Process(Path(wish["file"]), int(number), Line(hears, tells), shows)


class Apart:
    """A student's function that runs in another process. Call it as if it were here."""

    def __init__(self, nursery: Nursery, wish: dict[str, Any], process: "Process | None" = None) -> None:
        self.nursery, self.wish = nursery, wish
        self.process = process or nursery.process(wish)
        self.__name__, self.__module__ = wish["function"], "exercise"
        self.__code__ = line_of(wish["file"], 1, self.__name__, "").__code__  # tells where the function is
        self.process.loads += 1
        self.copy = self.process.loads
        self.process.ask(["load", self.copy])

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Let the other process call the function. Return, change and raise what it does."""
        return self.process.call(self.copy, given, named)

    def fresh(self, alone: bool = False) -> "Apart":
        """Return the function from a new import of the file. alone: in a process of its own, to run next to others."""
        return Apart(self.nursery, self.wish, None if alone else self.process)


class Process:
    """The connection to a process, and the objects that both sides know."""

    def __init__(self, file: Path, number: int, line: Line, shows: int) -> None:
        """number: of the process. shows: a pipe on which it says the line of the student's file that it is at."""
        self.file, self.number, self.line, self.shows = file, number, line, shows
        self.table, self.loads = Table(0, away), 0
        self.errors: dict[int, BaseException] = {}  # raised here, at the student's request
        weakref.finalize(self, closed, line, shows).atexit = False

    def call(self, copy: int, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a copy of the function."""
        self.table.tick()
        quiet = np.geterr()["divide"] == "ignore"
        tree = ["call", copy, quiet, self.table.pack(given), self.table.pack(named)]
        return self.finish([*tree, self.table.changes(self.table.recent())])

    def ask(self, tree: Any) -> Any:
        """Send a wish without arguments, and wait until it is done."""
        self.table.tick()
        return self.finish(tree)

    def finish(self, tree: Any) -> Any:
        """Send a wish, do what the student's function asks for, and return what comes out."""
        try:
            self.line.write(tree, self.table.data)
            while True:
                (kind, *rest), data = self.hear()
                self.table.begin(data)
                if kind == "do":
                    self.do(*rest)
                elif kind == "returned":
                    value, changed, said = rest
                    result = self.table.unpack(value)
                    self.table.apply(changed)
                    show(*said)
                    return result
                else:
                    break
            error, line = self.outcome(kind, *rest)
        except (OSError, EOFError):
            raise self.over("the program was ended (a crash of Python, or a signal?)") from None
        except (Malformed, *BROKEN) as problem:
            told = f"{type(problem).__name__}: {problem}"
            raise self.over(f"what the function's process sends cannot be read: {told[:200]}") from None
        raise_at(self.file, line, error)

    def over(self, told: str) -> Ended:
        """Close the connection, on which the two sides no longer understand each other. Return what to raise."""
        self.line.close()
        return Ended(told)

    def hear(self) -> Any:
        """Wait for a message."""
        waiting[threading.get_ident()] = self
        try:
            return self.line.read()
        finally:
            del waiting[threading.get_ident()]

    def outcome(self, kind: str, *rest: Any) -> tuple[BaseException, Any]:
        """Return the exception that ends the call, and the student's line that raised it: its number, its function.

        Raise Malformed for another message.
        """
        if kind == "broken":
            return self.over(f"what the function returns cannot be passed on: {str(rest[0])[:200]}"), None
        if kind == "ended":
            show(*rest[1])
            at = f" ({self.file.name}:{int(rest[0])})" if rest[0] else ""
            return self.over(f"the program was ended (os._exit){at}"), None
        if kind != "raised":
            raise Malformed(f"a message {kind!r:.20}")
        number, names, text, line, said = rest
        show(*said)
        if number in self.errors:
            return self.errors[number], None
        return rebuilt(names, str(text)), [int(line[0]), str(line[1])] if line else None

    def do(self, number: int, name: str, place: Any, given: Any, named: Any, changed: Any, said: Any) -> None:
        """Call a method of a thing that stays here, as if the student's line did it, and send what it returns.

        Raise Malformed if it is none that may be called.
        """
        thing = self.table.things[number]
        kind, *_ = away(thing) or ["nothing"]
        if name not in remote.OPERATIONS.get(kind, ()):
            raise Malformed(f"{name!r:.20} of {kind}")
        table = self.table
        arguments, options = table.unpack(given), table.unpack(named)
        theirs, touched = list(table.entered), list(table.touched)
        table.apply(changed)
        show(*said)
        line, function, names = place
        array = next((x for x in arguments if isinstance(x, np.ndarray)), None)
        act = line_of(str(self.file), int(line), str(function), str(names)[:100])
        try:
            value = act(getattr(thing, name), array if names else None, arguments, options)
        except Exception as error:
            self.errors[len(self.errors)] = error
            table.begin()
            answer = ["failed", len(self.errors) - 1, classes_of(error), str(error)]
        else:
            table.begin()
            answer = ["done", table.pack(value)]
        self.line.write([*answer, table.changes(table.recent() if kind == "function" else touched)], table.data)
        if name != "send":  # its handle may be asked for later
            table.forget(theirs)

    def where(self) -> tuple[int, str, int] | None:
        """Return the line that the process is at, 0 if it is not in the student's file, what it has printed, and the
        size of that; None if it does not answer."""
        with contextlib.suppress(OSError, *BROKEN):
            os.kill(self.number, signal.SIGUSR1)
            if select.select([self.shows], [], [], ANSWER)[0]:
                line, text, size = json.loads(os.read(self.shows, 2**16))
                return int(line), str(text), int(size)
        return None


def closed(line: Line, shows: int) -> None:
    """Let a process end that nobody will call again."""
    line.close()
    os.close(shows)


def away(thing: Any) -> list[Any] | None:
    """Return the kind of a thing that stays here, and what the student's process must know of it; None for data."""
    if isinstance(thing, np.ufunc):
        return ["ufunc", thing.__name__]
    if hasattr(type(thing), "send"):
        return ["communicator", thing.rank, thing.size, thing.numbers]
    if hasattr(type(thing), "wait"):
        return ["handle"]
    if callable(thing):
        return ["function", getattr(thing, "__name__", type(thing).__name__)]
    return None


def show(text: str, size: int) -> None:
    """Print what the student's function has printed; only the size of what is left out."""
    if text:
        sys.stdout.write(str(text))
    if isinstance(sys.stdout, student.Printed):
        sys.stdout.size += max(0, int(size) - len(text))


@lru_cache(1000)
def line_of(file: str, line: int, function: str, names: str) -> FunctionType:
    """Return a function of (call, array, given, named) that returns call(*given, **named).

    Its frame looks like the student's function at this line, where the array has these names. So all that looks at
    frames or tracebacks, to say where a rank waits, finds the student's line.
    """
    code = (lambda call, array, given, named: call(*given, **named)).__code__
    known = {"co_filename": file, "co_firstlineno": max(1, line), "co_name": function}
    return FunctionType(code.replace(co_varnames=("(call", names, "(given", "(named"), **known), {})  # type: ignore[arg-type]


def raise_at(file: Path, line: Any, error: BaseException) -> Any:
    """Raise an exception as if the student's line had done it."""

    def fail() -> None:
        raise error

    if line:
        line_of(str(file), *line, "")(fail, None, (), {})
    fail()
