"""Rank 0 prints line by line into a buffer in memory, and writes the buffer at once."""

import io
import sys
from typing import TextIO

from minitrain.comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    texts = world.gather_objects(text)
    if world.rank != 0:
        return
    buffer = io.StringIO(newline="")
    for line in texts:
        print(line, file=buffer)
    out = sys.stdout if file is None else file
    out.write(buffer.getvalue())
    out.flush()
