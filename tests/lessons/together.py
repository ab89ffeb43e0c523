"""Run slow commands, and the checks of many solutions, concurrently: most of them wait, or use one core."""

import contextlib
import io
import json
import multiprocessing
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minitrain import debug
from minitrain.comm.communicator import Communicator
from minitrain.lessons import check, student, worker
from minitrain.lessons.apart import Nursery
from minitrain.lessons.manifest import Exercise, exercises
from minitrain.lessons.report import Reports
from tests.examples import leave_numpy_alone

BY_ID = {exercise.id: exercise for exercise in exercises()}


def copied_here(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a student's folder into this one, and return the copy, which becomes the working directory."""
    mine = shutil.copytree(made, folder / made.name)
    monkeypatch.chdir(mine)
    return mine


def parameters(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Return the parameters of each selected test that uses this fixture, in its module or, if shared, in all."""
    return [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        and (request.scope == "session" or item.module is request.module)
        and request.fixturename in item.fixturenames
    ]  # fmt: skip


def started(
    request: pytest.FixtureRequest, names: tuple[str, ...], call: Callable[..., Any], workers: int
) -> Iterator[dict[tuple, Future]]:
    """Start call(the named parameters) once for each test of the module that uses this fixture."""
    wanted = dict.fromkeys(tuple(given[name] for name in names) for given in parameters(request))
    pool = ThreadPoolExecutor(workers)
    try:
        yield {key: pool.submit(call, *key) for key in wanted}
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def checked(solutions: Iterable[tuple[str, Path]], workers: int) -> Iterator[dict[tuple[str, Path], Future[Reports]]]:
    """Check these solutions, each an exercise's id and a file, in processes with threads as ranks."""
    context = multiprocessing.get_context("spawn")  # the tests' own process has threads
    with ProcessPoolExecutor(workers, context, initializer=leave_numpy_alone) as pool:
        try:
            yield {key: pool.submit(reports, *key) for key in dict.fromkeys(solutions)}
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """Start a nursery in a new interpreter: the tests' own process has imported the course, and has threads."""
    ours, theirs = socket.socketpair()
    with theirs:
        code = "from minitrain.lessons import student, worker; import socket, sys"
        code += "; student.nursery(socket.socket(fileno=int(sys.argv[1])))"
        file = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", code, str(file)], pass_fds=[file])
    with ours:
        yield Nursery(ours)
    process.wait(10)


def reports(id: str, file: Path) -> Reports:
    """Return the ranks' reports about a solution. A right one may be slow on a busy machine; a wrong one may hang."""
    return worker.as_threads(BY_ID[id], file, check.LIMIT * (5 if "also_right" in file.parts else 1))


def hung(solutions: list[tuple[str, Path]]) -> dict[tuple[str, Path], check.Verdict]:
    """Check solutions that hang, three at a time, in a process of its own, whose limits this changes.

    Each gets four seconds, less than students have: after three, the library says what it waits for. Those of lesson
    00, about processes, run under mpirun; the others wait in the same functions of the library, with threads as ranks.
    """
    check.START = 60.0
    check._cause = lambda *_: ""  # the message names the mistake

    def verdict(solution: tuple[str, Path]) -> check.Verdict:
        exercise, file = BY_ID[solution[0]], solution[1]
        return check.check(exercise, file, as_given=True, threads=exercise.lesson.number != "00", limit=4.0)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(solutions, pool.map(verdict, solutions), strict=True))


def examined(world: Communicator, exercise: Exercise, file: Path) -> Reports:
    """Return all ranks' reports, as minitrain/lessons/worker.py makes them under mpirun, from inside a job."""
    function = getattr(student.load(file), exercise.function)
    with debug.enabled(), contextlib.redirect_stdout(io.StringIO()):
        try:
            report = worker.examine(world.duplicate(), exercise, function).plain()
        except Exception as error:
            report = worker.raised(error, exercise, file, world.rank)
    return dict(enumerate(json.loads(json.dumps(world.gather_objects(report)))))
