"""Start and end a program as one of N ranks.

    with minitrain.launch() as world:
        ...

Under mpirun `world` has N ranks; otherwise, one. Plain MPI hangs if a rank raises or exits, because the others keep
waiting for it. Therefore, if a rank fails (an exception in any thread, or sys.exit), it prints its rank and the reason,
and ends the whole job with a nonzero status. (os._exit and kill -9 leave no time for that; the launcher detects them,
unless the status is 0.) A watch detects ranks that stop communicating in any other way (they end, skip a step, sleep or
are stopped by a signal): see watch.py.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..comm.communicator import Communicator
from ..comm.threads import world_of_one
from ..environment import launched, waiting
from ..errors import UserError, out_of_memory
from . import remains
from .launchers import family_of
from .output import output_lost, watched

PATIENCE = 2.0  # seconds that a rank that exits early waits for the others to exit as well
SPEAKER = 1.0  # seconds; the same for rank 0 with a UserError, so that it prints the error before another rank does


@contextmanager
def launch(wait: float | None = None) -> Iterator[Communicator]:
    """Context manager that yields the communicator of all ranks, and ends the job if one of them fails.

    wait: seconds without progress after which waiting ranks end the job; default MINITRAIN_WAIT, or 60. On one process
    in a notebook or at Python's prompt, exceptions propagate unchanged. Exit status: 2 for a UserError, 130 for an
    interrupt, the status given to sys.exit, otherwise 1.
    """
    world: Communicator = world_of_one()
    try:
        world = _world()
        limit = waiting(wait)
    except UserError as error:
        if not _at_a_prompt(world):
            _mistake(world, error)
        raise
    page, before, barrier = sys.stdout, threading.excepthook, _ExitBarrier(world, limit)
    remains.unlink_own()  # all ranks created the exit barrier together, so they have left MPI_Init
    threading.excepthook, sys.stdout = before if _at_a_prompt(world) else barrier.thread_failed, watched(page)
    try:
        yield world
        barrier.wait_for_all()
    except BaseException as error:
        barrier.leaving = True
        if _at_a_prompt(world):
            raise
        _leave(world, error, barrier)
    finally:
        threading.excepthook, sys.stdout = before, page
        barrier.close()


def _at_a_prompt(world: Communicator) -> bool:
    """Return whether this is a single rank at a prompt or in a notebook, which must survive an exception."""
    return world.size == 1 and hasattr(sys, "ps1")  # IPython and Jupyter set it as well


def _world() -> Communicator:
    """Return MPI's world, or a world of one if mpi4py is unavailable. Raise UserError if mpirun needs it."""
    family, rank, size = launched()
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI

        check_families(family, size, MPI.Get_library_version())
        if not MPI.Is_initialized():  # it is if the program has imported mpi4py's MPI itself
            remains.check_room(rank, size)
            MPI.Init_thread()
        from ..comm.mpi import MPICommunicator
    except (ImportError, RuntimeError) as error:
        if size > 1:
            raise UserError(
                f"started by mpirun, but mpi4py cannot be used: {error}. Run: python -m minitrain doctor"
            ) from error
        return world_of_one()
    check_world_size(family, size, MPI.COMM_WORLD.Get_size(), MPI.Get_library_version())
    return MPICommunicator(MPI.COMM_WORLD)


def check_families(family: str, started: int, library: str) -> None:
    """Raise UserError before MPI_Init for Open MPI's mpirun with an MPICH library, which would abort in MPI_Init."""
    if family == "Open MPI" and family_of(library) == "MPICH":
        check_world_size(family, started, min(started - 1, 1), library)


def check_world_size(family: str, started: int, seen: int, library: str) -> None:
    """Raise UserError if mpirun and the MPI library are different MPIs, which silently start N worlds of one rank."""
    if started != seen and family:
        name = library.splitlines()[0].split(",")[0].strip("\x00 ")
        raise UserError(
            f"mpirun ({family}) started {started} ranks, but the MPI library in use ({name}) sees {seen}. "
            "The two belong to different MPIs. Use the mpirun next to this Python: "
            f"{os.path.join(os.path.dirname(sys.executable), 'mpirun')}; see python -m minitrain doctor"
        )


def _leave(world: Communicator, error: BaseException, barrier: "_ExitBarrier") -> None:
    """End this rank before the end of its program. It may exit quietly only if all ranks do."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        if barrier.all_come(PATIENCE):
            raise error
        _fail(world, error, " (the other ranks are still at work)")
    elif isinstance(error, OSError) and (lost := output_lost()) is not None:
        _leave_with(world, barrier, lost, error)
    elif isinstance(error, UserError) or (starved := out_of_memory(error)):
        said = error if isinstance(error, UserError) else starved
        _leave_with(world, barrier, f"minitrain: error: {said}\n", error)
    elif isinstance(error, KeyboardInterrupt):
        for number in (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, signal.SIG_DFL)  # a second one ends this rank at once, without traceback
        if barrier.told_to_be_quiet():
            time.sleep(PATIENCE)  # another rank has printed why the job ends
        _interrupted(world, error, barrier.watch is not None and barrier.watch.signalled)
    else:
        _fail(world, error)


def _leave_with(world: Communicator, barrier: "_ExitBarrier", message: str, error: BaseException) -> None:
    """Print the message once and end with status 2: through MPI_Finalize if all ranks arrive in time, else by Abort."""
    barrier.close()
    if world.rank == 0:
        _say(message)
    together = barrier.all_come(PATIENCE if world.rank else SPEAKER, mistaken=True)
    if world.rank != 0 and (not together or barrier.speaker == world.rank):
        _say(message)
    if together and world.size > 1 and threading.active_count() == 1:  # another thread may be in MPI
        with contextlib.suppress(RuntimeError):  # no memory for a thread, or an unreceived message
            _finalize(2)
            raise SystemExit(2) from error
        if _is_finalized():
            os._exit(2)
    _end(world, "", 2, error)


def _is_finalized() -> bool:
    from mpi4py import MPI

    return MPI.Is_finalized()


def _finalize(status: int) -> None:
    """Finalize MPI, which removes its files (Abort does not). Exit with `status` if that takes too long."""
    from mpi4py import MPI

    late = threading.Timer(PATIENCE, os._exit, [status])  # Finalize may wait for an unreceived message
    late.daemon = True
    late.start()
    MPI.Finalize()


class _ExitBarrier:
    """The exit barrier. It has its own communicator, so that early arrivals do not disturb the others' collectives."""

    def __init__(self, world: Communicator, limit: float) -> None:
        self.world = world
        self.comm: Any = getattr(world.duplicate(), "comm", None) if world.size > 1 else None
        self.request: Any = None
        self.mine, self.first = np.full(1, world.size), np.full(1, world.size)
        self.failed = threading.Event()
        self.leaving = False  # this rank is exiting early: the main thread reports why
        self.watch = None
        if self.comm is not None and world.threads_allowed:
            from .watch import Watch

            self.watch = Watch(self.comm, world.moves, limit, self.give_up)
            self.watch.start()
            world.moves.hush = self.watch.hush

    def give_up(self, message: str) -> None:
        """End the job from the watch's thread: with the message, or as interrupted if it is empty."""
        if self.leaving:
            return
        if message:
            _end(self.world, f"minitrain: error: {message}\n", 1, None)
        _interrupted(self.world, None, signalled=True)

    def told_to_be_quiet(self) -> bool:
        """Return whether another rank is ending the job, which caused mpirun's signal to this one."""
        if self.watch is None:
            return False
        time.sleep(0.15)  # time for the watch to poll
        return self.watch.hushed

    def close(self) -> None:
        """Stop the watch's thread, if it is running."""
        watch, self.watch = self.watch, None
        if watch is not None:
            self.world.moves.hush = lambda: None
            watch.stop()

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """The threading.excepthook while the program runs: end the job."""
        self.failed.set()
        _fail(self.world, args.exc_value, f" in thread {args.thread.name if args.thread else '?'}")

    @property
    def speaker(self) -> int:
        """The lowest rank that arrived with an error; the number of ranks if none did."""
        return int(self.first[0])

    def all_come(self, seconds: float, mistaken: bool = False) -> bool:
        """Return whether every rank arrives within this time."""
        if self.comm is None:
            return True
        if self.request is None:
            from mpi4py import MPI

            self.mine[0] = self.world.rank if mistaken else self.world.size
            self.request = self.comm.Iallreduce(self.mine, self.first, MPI.MIN)
        deadline = time.monotonic() + seconds
        while not self.request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)  # leave the core to ranks that are still at work
        return True

    def wait_for_all(self) -> None:
        """Wait until every rank has arrived; forever if a thread of this rank has failed and is ending the job."""
        if self.watch is not None:
            self.watch.ended = True
        self.all_come(float("inf"))
        while self.failed.is_set():
            time.sleep(1)


def _mistake(world: Communicator, error: UserError) -> None:
    """End the job with a user's error. It is usually the same on all ranks, so rank 0 prints it."""
    if world.rank != 0:
        time.sleep(PATIENCE)
    _end(world, f"minitrain: error: {error}\n", 2, error)


def _interrupted(world: Communicator, error: BaseException | None, signalled: bool) -> None:
    """End the job after Ctrl-C or mpirun's signal, without a traceback."""
    if world.rank != 0:
        time.sleep(PATIENCE)  # usually all ranks are interrupted: one line is enough
    message = f"minitrain: rank {world.rank} of {world.size} was interrupted; the job ends here\n"
    if signalled and launched()[0] == "Open MPI":
        _say_on_terminal(message)
        message = ""
    _end(world, message, 130, error)


def _say_on_terminal(message: str) -> None:
    """Write to the job's terminal, if any: once interrupted, Open MPI's mpirun drops the output of its ranks."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
        os.write(terminal, message.encode())
        os.close(terminal)


def _fail(world: Communicator, error: BaseException | None, where: str = "") -> None:
    """End the job with the error's traceback, or with a short message for an error inside MPI."""
    what, status = "raised", 1
    if isinstance(error, SystemExit):
        what = f"called sys.exit({error.code!r})"
        status = (isinstance(error.code, int) and error.code & 255) or 1  # a status has 8 bits: 256 would become 0
    report = "".join(traceback.format_exception(error)) if error is not None else ""
    if error is not None and type(error).__module__.startswith("mpi4py"):  # MPI's own error stack does not help users
        place = next((f for f in traceback.extract_tb(error.__traceback__)[::-1] if _of_the_user(f.filename)), None)
        at = f" in a call at {os.path.basename(place.filename)}:{place.lineno}" if place else ""
        report = (
            f"MPI failed{at}: {str(error).splitlines()[0][:100]}\n"
            "This happens if ranks make different calls; set MINITRAIN_DEBUG=1 to see which\n"
        )
    _end(
        world,
        f"minitrain: rank {world.rank} of {world.size} {what}{where}; the job ends here\n{report}",
        status,
        error,
    )


def _of_the_user(file: str) -> bool:
    return not file.startswith(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) and "mpi4py" not in file


def _say(message: str) -> None:
    """Print the message to standard error in one piece, after flushing standard output."""
    for stream, text in ((sys.stdout, ""), (sys.stderr or sys.__stderr__, message)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a closed terminal must not keep the job up
            if stream is not None:
                stream.write(text)
                stream.flush()


def _end(world: Communicator, message: str, status: int, error: BaseException | None) -> None:
    """Print the message in one piece and end the job on all ranks, even blocked ones."""
    try:
        _say(message)
    finally:  # a failure of the program's replacement streams must not keep the job running
        comm: Any = getattr(world, "comm", None)
        if comm is not None and world.size > 1:
            world.moves.hush()
            time.sleep(0.25)  # on Abort, mpirun may drop output that it has not forwarded yet
            comm.Abort(status)
        if threading.current_thread() is not threading.main_thread():
            os._exit(status)
    raise SystemExit(status) from error
