"""What all ranks have to say, in order.

Each rank may print for itself, but all share one terminal: their lines come in any order, in another one every time.
"""

import os
import sys
from typing import TextIO

from .communicator import Communicator


def say(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Rank 0 prints the texts of all ranks in the order of the ranks, each ended by a newline. All ranks call it.

    file: where to; sys.stdout unless given. The texts leave in one piece, so that no other rank's words come between
    them, and they have left when rank 0 returns.
    """
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{text}\n" for text in texts), end="", file=file, flush=True)


def output_lost() -> str | None:
    """Why standard output cannot be written, as a line for standard error; None when it can.

    A reader that has had enough (`| head`) is no mistake: the line is empty. What was not written is dropped, since
    Python would try, and complain, once more at its end.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        said = ""
    except OSError as error:
        said = f"minitrain: error: the output cannot be written: {error.strerror}; send it elsewhere\n"
    else:
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return said
