"""Print the output of all ranks in rank order.

Ranks share one terminal, so if each prints for itself, the lines appear in a different order on every run.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from ..comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this.

    The texts are joined, written at once (so no other output comes in between) and flushed. file: sys.stdout by
    default.
    """
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{text}\n" for text in texts), end="", file=file, flush=True)


class Output:
    """Standard output that records why a write failed, and escapes characters that its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, as `TextIO.write` does. If that fails, record and raise the OSError."""
        try:
            return self.stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except OSError as error:
            self.lost = error
            raise

    def flush(self) -> None:
        """Flush the stream. If that fails, record and raise the OSError."""
        try:
            self.stream.flush()
        except OSError as error:
            self.lost = error
            raise


def watched(stream: TextIO | None) -> TextIO:
    """Wrap the stream in an Output. For None, Python's value for a closed stream, write to the null device."""
    if stream is None:
        stream = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    return stream if isinstance(stream, Output) else cast(TextIO, Output(stream))


def output_lost() -> str | None:
    """Return a line for standard error that says why writing to standard output failed; None if it did not fail.

    A reader that closes the pipe early (`| head`) is not an error: the line is empty. Discard unwritten output, since
    Python would retry at exit and complain.
    """
    lost = getattr(sys.stdout, "lost", None)
    if lost is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # the stream has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(lost, BrokenPipeError):
        return ""
    return f"minitrain: error: cannot write the output: {lost.strerror}; redirect it elsewhere\n"


def watching_output(command: Callable[[], int]) -> int:
    """Run the command and return its status; 2, without a traceback, if writing its output failed."""
    before, sys.stdout = sys.stdout, watched(sys.stdout)
    try:
        try:
            status = command()
        finally:
            sys.stdout.flush()
    except (OSError, SystemExit):  # argparse and rich exit by themselves, and argparse ignores failed writes
        if (lost := output_lost()) is None:
            raise
    else:
        if (lost := output_lost()) is None:
            return status
    finally:
        sys.stdout = before
    with contextlib.suppress(AttributeError, OSError):  # standard error may be closed, too
        sys.stderr.write(lost)
    return 2
