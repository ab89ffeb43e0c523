"""Start and end a program as one of N ranks.

    with minitrain.launch() as world:
        ...

Under mpirun `world` has N ranks; otherwise, one. Plain MPI hangs if a rank raises or exits, because the others keep
waiting for it. Therefore, if a rank fails (an exception in any thread, or sys.exit), it prints its rank and the reason,
and ends the whole job with a nonzero status. (os._exit and kill -9 leave no time for that; the launcher detects them,
unless the status is 0.) A watch detects ranks that stop communicating in any other way (they end, skip a step, sleep or
are stopped by a signal): see watch.py.

This file decides how a rank ends. Those that are done wait for the others in exit_barrier.py; abort.py ends the job.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..comm.communicator import Communicator
from ..comm.threads import world_of_one
from ..environment import launched, waiting
from ..errors import UserError, out_of_memory
from . import abort, leftover_files
from .exit_barrier import ExitBarrier
from .mpirun import family_of
from .output import output_lost, watched

SPEAKER = 1.0  # seconds; like abort.PATIENCE, for rank 0 with a UserError, so that it prints before another rank does


@contextmanager
def launch(wait: float | None = None) -> Iterator[Communicator]:
    """Yield the communicator of all ranks to a `with`, and end the job if one of them fails.

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
            abort.user_error(world, error)
        raise
    page, before, barrier = sys.stdout, threading.excepthook, ExitBarrier(world, limit)
    leftover_files.unlink_own()  # all ranks created the exit barrier together, so they have left MPI_Init
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
            leftover_files.check_room(rank, size)
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


def _leave(world: Communicator, error: BaseException, barrier: ExitBarrier) -> None:
    """End this rank before the end of its program. It may exit quietly only if all ranks do."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        if barrier.all_come(abort.PATIENCE):
            raise error
        abort.fail(world, error, " (the other ranks are still at work)")
    elif isinstance(error, OSError) and (lost := output_lost()) is not None:
        _leave_with(world, barrier, lost, error)
    elif isinstance(error, UserError) or (starved := out_of_memory(error)):
        message = error if isinstance(error, UserError) else starved
        _leave_with(world, barrier, f"minitrain: error: {message}\n", error)
    elif isinstance(error, KeyboardInterrupt):
        for number in (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, signal.SIG_DFL)  # a second one ends this rank at once, without traceback
        if barrier.told_to_be_quiet():
            time.sleep(abort.PATIENCE)  # another rank has printed why the job ends
        abort.interrupted(world, error, barrier.watch is not None and barrier.watch.signalled)
    else:
        abort.fail(world, error)


def _leave_with(world: Communicator, barrier: ExitBarrier, message: str, error: BaseException) -> None:
    """Print the message once and end with status 2: through MPI_Finalize if all ranks arrive in time, else by Abort."""
    hush = world.moves.hush
    barrier.close()
    if world.rank == 0:
        abort.print_error(message)
    together = barrier.all_come(abort.PATIENCE if world.rank else SPEAKER, mistaken=True)
    if world.rank != 0 and (not together or barrier.speaker == world.rank):
        abort.print_error(message)
    if together and world.size > 1 and threading.active_count() == 1:  # another thread may be in MPI
        with contextlib.suppress(RuntimeError):  # no memory for a thread, or an unreceived message
            _finalize(2)
            raise SystemExit(2) from error
        if _is_finalized():
            os._exit(2)
    if not together:
        hush()
    abort.end(world, "", 2, error)


def _is_finalized() -> bool:
    from mpi4py import MPI

    return MPI.Is_finalized()


def _finalize(status: int) -> None:
    """Finalize MPI, which removes its files (Abort does not). Exit with `status` if that takes too long."""
    from mpi4py import MPI

    late = threading.Timer(abort.PATIENCE, os._exit, [status])  # Finalize may wait for an unreceived message
    late.daemon = True
    late.start()
    MPI.Finalize()
