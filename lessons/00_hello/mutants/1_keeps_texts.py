"""collects the texts in a list of the module and prints those of earlier calls again."""

from typing import TextIO

from minitrain.comm.communicator import Communicator

LINES: list[str] = []


def print_in_order(world: Communicator, text: str, file: TextIO | None = None) -> None:
    """Print the texts of all ranks on rank 0, in rank order, a newline after each. All ranks must call this."""

    LINES.extend(world.gather_objects(text))
    if world.rank == 0:
        print("".join(f"{line}\n" for line in LINES), end="", file=file, flush=True)
