"""What all ranks have to say, in order.

Each rank may print for itself, but all share one terminal: their lines come in any order, in another one every time.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from ..comm.communicator import Communicator


def say(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Rank 0 prints the texts of all ranks in the order of the ranks, each ended by a newline. All ranks call it.

    file: where to; sys.stdout unless given. The texts leave in one piece, so that no other rank's words come between
    them, and they have left when rank 0 returns.
    """
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{text}\n" for text in texts), end="", file=file, flush=True)


class Output:
    """Standard output that remembers why it could not be written, and shows what its encoding lacks as an escape."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As a stream's."""
        try:
            return self.stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except OSError as error:
            self.lost = error
            raise

    def flush(self) -> None:
        """As a stream's."""
        try:
            self.stream.flush()
        except OSError as error:
            self.lost = error
            raise


def watched(stream: TextIO | None) -> TextIO:
    """The stream as an Output; None, which is what Python has for one that was closed before, goes nowhere."""
    if stream is None:
        stream = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
    return stream if isinstance(stream, Output) else cast(TextIO, Output(stream))


def output_lost() -> str | None:
    """Why the watched standard output could not be written, as a line for standard error; None when it could.

    A reader that has had enough (`| head`) is no mistake: the line is empty. What was not written is dropped, since
    Python would try once more at its end, and complain.
    """
    lost = getattr(sys.stdout, "lost", None)
    if lost is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(lost, BrokenPipeError):
        return ""
    return f"minitrain: error: the output cannot be written: {lost.strerror}; send it elsewhere\n"


def watching_output(command: Callable[[], int]) -> int:
    """The status of the command; 2, and no traceback, when its output could not be written."""
    before, sys.stdout = sys.stdout, watched(sys.stdout)
    try:
        try:
            status = command()
        finally:
            sys.stdout.flush()
    except (OSError, SystemExit):  # argparse and rich end by themselves, and argparse passes over what it cannot write
        if (said := output_lost()) is None:
            raise
    else:
        if (said := output_lost()) is None:
            return status
    finally:
        sys.stdout = before
    with contextlib.suppress(AttributeError, OSError):  # standard error may be closed as well
        sys.stderr.write(said)
    return 2
