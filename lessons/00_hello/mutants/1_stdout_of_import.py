"""writes to the sys.stdout of the moment when the file was imported."""

import sys
from typing import TextIO

from minitrain.comm.communicator import Communicator

STDOUT = sys.stdout


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{line}\n" for line in texts), end="", file=STDOUT if file is None else file, flush=True)
