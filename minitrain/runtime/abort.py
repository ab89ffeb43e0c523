"""Print the reason and end the job on all ranks, even blocked ones."""

import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Any

from ..comm.communicator import Communicator
from ..environment import launched
from ..errors import UserError
from .terminal import fresh_line

PATIENCE = 2.0  # seconds that a rank that exits early waits for the others to exit as well


def user_error(world: Communicator, error: UserError) -> None:
    """End the job with a user's error. It is usually the same on all ranks, so rank 0 prints it."""
    if world.rank != 0:
        time.sleep(PATIENCE)
    end(world, f"minitrain: error: {error}\n", 2, error)


def interrupted(world: Communicator, error: BaseException | None, signalled: bool) -> None:
    """End the job after Ctrl-C or mpirun's signal, without a traceback."""
    if world.rank != 0:
        time.sleep(PATIENCE)  # usually all ranks are interrupted: one line is enough
    message = f"minitrain: rank {world.rank} of {world.size} was interrupted; the job ends here\n"
    if signalled and launched()[0] == "Open MPI":
        _print_on_terminal(message)
        message = ""
    end(world, message, 130, error)


def _print_on_terminal(message: str) -> None:
    """Write to the job's terminal, if any: once interrupted, Open MPI's mpirun drops the output of its ranks."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
        os.write(terminal, f"{fresh_line()}{message}".encode())
        os.close(terminal)


def fail(world: Communicator, error: BaseException | None, where: str = "") -> None:
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
    end(
        world,
        f"minitrain: rank {world.rank} of {world.size} {what}{where}; the job ends here\n{report}",
        status,
        error,
    )


def _of_the_user(file: str) -> bool:
    return not file.startswith(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) and "mpi4py" not in file


def print_error(message: str) -> None:
    """Print the message to standard error in one piece, after flushing standard output, on a line of its own."""
    begin = fresh_line() if message else ""
    for stream, text in ((sys.stdout, ""), (sys.stderr or sys.__stderr__, begin + message)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a closed terminal must not keep the job alive
            if stream is not None:
                stream.write(text)
                stream.flush()


def end(world: Communicator, message: str, status: int, error: BaseException | None) -> None:
    """Print the message in one piece and end the job on all ranks, even blocked ones."""
    try:
        print_error(message)
    finally:  # a failure of the program's replacement streams must not keep the job running
        comm: Any = getattr(world, "comm", None)
        if comm is not None and world.size > 1:
            world.moves.hush()
            time.sleep(0.25)  # on Abort, mpirun may drop output that it has not forwarded yet
            comm.Abort(status)
        if threading.current_thread() is not threading.main_thread():
            os._exit(status)
    raise SystemExit(status) from error
