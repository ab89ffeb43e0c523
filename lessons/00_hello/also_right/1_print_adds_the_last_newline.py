"""Joins the texts by newlines; print adds the last one."""

from typing import TextIO

from minitrain.comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    texts = world.gather_objects(text)
    if world.rank == 0:
        print("\n".join(texts), file=file, flush=True)
