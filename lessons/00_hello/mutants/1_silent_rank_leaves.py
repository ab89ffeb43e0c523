"""a rank with nothing to say returns before the collective, so the others wait for ever"""

from typing import TextIO

from minitrain.comm.communicator import Communicator


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    if not text:
        return
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{line}\n" for line in texts), end="", file=file, flush=True)
