"""Starting and ending as one of N ranks.

    with minitrain.launch() as world:
        ...

Under mpirun `world` has N ranks; without it, one. MPI by itself hangs when a rank raises or leaves: the others wait
for it for ever. So any unclean end of a rank (an exception here or in another thread, sys.exit) prints which rank it
was and why, and ends the whole job with a status that is not 0. (os._exit and kill -9 leave no time for that; the
launcher sees them, unless the status is 0.) A rank that leaves the others alone in any other way (it has ended, skips a
step, sleeps, is stopped) is noticed by a watch: see watch.py.
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
from .say import output_lost, watched

PATIENCE = 2.0  # seconds: how long a rank that leaves early waits for the others to leave as well
SPEAKER = 1.0  # seconds: the same for rank 0 with a mistake, which has said it by the time that another would


@contextmanager
def launch(wait: float | None = None) -> Iterator[Communicator]:
    """Gives the communicator of all ranks, and ends the job when one of them fails.

    wait: seconds after which it ends, too, when ranks wait for others and none moves. By default 60, or the number in
    MINITRAIN_WAIT. In a notebook or at Python's prompt, on one process, an exception stays the exception that it is.
    """
    world: Communicator = world_of_one()
    try:
        world = _world()
        limit = waiting(wait)
    except UserError as error:
        if not _at_a_prompt(world):
            _mistake(world, error)
        raise
    page, before, door = sys.stdout, threading.excepthook, _Door(world, limit)
    remains.unlink_own()  # the door was made by all ranks together, so they have left MPI_Init
    threading.excepthook, sys.stdout = before if _at_a_prompt(world) else door.thread_failed, watched(page)
    try:
        yield world
        door.wait_for_all()
    except BaseException as error:
        door.leaving = True
        if _at_a_prompt(world):
            raise
        _leave(world, error, door)
    finally:
        threading.excepthook, sys.stdout = before, page
        door.close()


def _at_a_prompt(world: Communicator) -> bool:
    """Whether this is the only rank, and works for Python's prompt or a notebook, which must outlive an exception."""
    return world.size == 1 and hasattr(sys, "ps1")  # IPython and Jupyter set it, too


def _world() -> Communicator:
    """MPI's world; a world of one where neither MPI nor mpirun is at hand."""
    family, rank, size = launched()
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI

        check_families(family, size, MPI.Get_library_version())
        if not MPI.Is_initialized():  # as it is when the program has imported mpi4py's MPI itself
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
    """Raises UserError, before MPI_Init, for the one pair that would end there in words of its own."""
    if family == "Open MPI" and family_of(library) == "MPICH":
        check_world_size(family, started, min(started - 1, 1), library)


def check_world_size(family: str, started: int, seen: int, library: str) -> None:
    """Raises UserError when mpirun and the MPI library belong to different MPIs: N worlds of one rank, silently."""
    if started != seen and family:
        name = library.splitlines()[0].split(",")[0].strip("\x00 ")
        raise UserError(
            f"mpirun ({family}) started {started} ranks, but the MPI library in use ({name}) sees {seen}. "
            "The two belong to different MPIs. Use the mpirun that stands beside this Python: "
            f"{os.path.join(os.path.dirname(sys.executable), 'mpirun')}; see python -m minitrain doctor"
        )


def _leave(world: Communicator, error: BaseException, door: "_Door") -> None:
    """A rank leaves before the end. It may do so quietly only if all ranks do."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        if door.all_come(PATIENCE):
            raise error
        _fail(world, error, " (the others are still at work)")
    elif isinstance(error, OSError) and (lost := output_lost()) is not None:
        _leave_with(world, door, lost, error)
    elif isinstance(error, UserError) or (starved := out_of_memory(error)):
        said = error if isinstance(error, UserError) else starved
        _leave_with(world, door, f"minitrain: error: {said}\n", error)
    elif isinstance(error, KeyboardInterrupt):
        for number in (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, signal.SIG_DFL)  # a second one ends this rank at once, without a traceback
        if door.told_to_be_quiet():
            time.sleep(PATIENCE)  # another rank has said why the job ends
        _interrupted(world, error, door.watch is not None and door.watch.signalled)
    else:
        _fail(world, error)


def _leave_with(world: Communicator, door: "_Door", message: str, error: BaseException) -> None:
    """Says it once and ends with status 2: together when all ranks come to the door in time, or else by Abort."""
    door.close()
    if world.rank == 0:
        _say(message)
    together = door.all_come(PATIENCE if world.rank else SPEAKER, mistaken=True)
    if world.rank != 0 and (not together or door.speaker == world.rank):
        _say(message)
    if together and world.size > 1 and threading.active_count() == 1:  # another thread may be inside MPI
        with contextlib.suppress(RuntimeError):  # no memory for a thread, or a message that nobody has received
            _finalize(2)
            raise SystemExit(2) from error
        if _is_finalized():
            os._exit(2)
    _end(world, "", 2, error)


def _is_finalized() -> bool:
    from mpi4py import MPI

    return MPI.Is_finalized()


def _finalize(status: int) -> None:
    """MPI's own end, which takes away what MPI has made; Abort leaves it behind."""
    from mpi4py import MPI

    late = threading.Timer(PATIENCE, os._exit, [status])  # it may wait for a message that nobody has received
    late.daemon = True
    late.start()
    MPI.Finalize()


class _Door:
    """Where the ranks meet at the end; a line of its own, so that who comes early meets nobody's collective."""

    def __init__(self, world: Communicator, limit: float) -> None:
        self.world = world
        self.comm: Any = getattr(world.duplicate(), "comm", None) if world.size > 1 else None
        self.request: Any = None
        self.mine, self.first = np.full(1, world.size), np.full(1, world.size)
        self.failed = threading.Event()
        self.leaving = False  # before the end: then the main thread says why
        self.watch = None
        if self.comm is not None and world.threads_allowed:
            from .watch import Watch

            self.watch = Watch(self.comm, world.moves, limit, self.give_up)
            self.watch.start()
            world.moves.hush = self.watch.hush

    def give_up(self, message: str) -> None:
        """Ends the job from the watch's thread."""
        if self.leaving:
            return
        if message:
            _end(self.world, f"minitrain: error: {message}\n", 1, None)
        _interrupted(self.world, None, signalled=True)

    def told_to_be_quiet(self) -> bool:
        """Whether another rank is ending the job, of which mpirun's signal has told us first."""
        if self.watch is None:
            return False
        time.sleep(0.15)  # so that the watch has looked
        return self.watch.hushed

    def close(self) -> None:
        """Ends the watch's thread, if it has not ended yet."""
        watch, self.watch = self.watch, None
        if watch is not None:
            self.world.moves.hush = lambda: None
            watch.stop()

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """What threading.excepthook is while the program runs."""
        self.failed.set()
        _fail(self.world, args.exc_value, f" in thread {args.thread.name if args.thread else '?'}")

    @property
    def speaker(self) -> int:
        """The first rank that has come with a mistake; the number of ranks when none has."""
        return int(self.first[0])

    def all_come(self, seconds: float, mistaken: bool = False) -> bool:
        """Whether every rank comes here within this time."""
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
            time.sleep(0.005)  # the others may be at work: leave them the core
        return True

    def wait_for_all(self) -> None:
        """Returns when every rank has come; never, when a thread of this one has failed and is about to end the job."""
        if self.watch is not None:
            self.watch.ended = True
        self.all_come(float("inf"))
        while self.failed.is_set():
            time.sleep(1)


def _mistake(world: Communicator, error: UserError) -> None:
    """One that a person can mend; mostly the same on every rank: one message is enough."""
    if world.rank != 0:
        time.sleep(PATIENCE)
    _end(world, f"minitrain: error: {error}\n", 2, error)


def _interrupted(world: Communicator, error: BaseException | None, signalled: bool) -> None:
    """Ctrl-C, or mpirun's way to say so: where each rank stood is of no interest."""
    if world.rank != 0:
        time.sleep(PATIENCE)  # mostly all ranks are told: one line is enough
    message = f"minitrain: rank {world.rank} of {world.size} was interrupted; the job ends here\n"
    if signalled and launched()[0] == "Open MPI":
        _say_on_terminal(message)
        message = ""
    _end(world, message, 130, error)


def _say_on_terminal(message: str) -> None:
    """Writes to the job's terminal, if any: once interrupted, Open MPI's mpirun passes on nothing that ranks print."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
        os.write(terminal, message.encode())
        os.close(terminal)


def _fail(world: Communicator, error: BaseException | None, where: str = "") -> None:
    what, status = "raised", 1
    if isinstance(error, SystemExit):
        what = f"called sys.exit({error.code!r})"
        status = (isinstance(error.code, int) and error.code & 255) or 1  # a status has 8 bits: 256 would be 0
    report = "".join(traceback.format_exception(error)) if error is not None else ""
    if error is not None and type(error).__module__.startswith("mpi4py"):  # MPI's own stack tells a reader nothing
        place = next((f for f in traceback.extract_tb(error.__traceback__)[::-1] if _of_the_user(f.filename)), None)
        at = f" in a call at {os.path.basename(place.filename)}:{place.lineno}" if place else ""
        report = (
            f"MPI failed{at}: {str(error).splitlines()[0][:100]}\n"
            "Ranks that make different calls do that; to have them named: MINITRAIN_DEBUG=1\n"
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
    """Prints the message in one piece, after what was printed before."""
    for stream, text in ((sys.stdout, ""), (sys.stderr or sys.__stderr__, message)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a closed terminal must not keep the job alive
            if stream is not None:
                stream.write(text)
                stream.flush()


def _end(world: Communicator, message: str, status: int, error: BaseException | None) -> None:
    """Prints the message in one piece and ends the job: all ranks, whatever they are waiting for."""
    try:
        _say(message)
    finally:  # whatever the program has put in the place of the streams must not keep the job from ending
        comm: Any = getattr(world, "comm", None)
        if comm is not None and world.size > 1:
            world.moves.hush()
            time.sleep(0.25)  # mpirun may drop what it has not passed on when the job is aborted
            comm.Abort(status)
        if threading.current_thread() is not threading.main_thread():
            os._exit(status)
    raise SystemExit(status) from error
