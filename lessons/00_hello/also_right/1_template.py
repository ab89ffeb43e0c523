"""Fills a template with one place for each rank; the others wait in a barrier until rank 0 has written."""

import sys
from typing import TextIO

from minitrain.comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    texts = tuple(world.gather_objects(text))
    if world.rank == 0:
        target = file if file is not None else sys.stdout
        target.write("%s\n" * world.size % texts)
        target.flush()
    world.barrier()
