"""What all ranks have to say, in order.

Each rank may print for itself, but all share one terminal: their lines come in any order, in another one every time.
"""

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
