"""Gathers pairs (rank, text), sorts them by rank, and joins with a newline at the end."""

from typing import TextIO

from minitrain.comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    pairs = sorted(world.gather_objects((world.rank, text)), key=lambda pair: pair[0])
    if not world.rank:
        print("\n".join([*(line for _, line in pairs), ""]), end="", file=file, flush=True)
