"""What a run prints: lines on rank 0, and how far a loop is whenever nothing was printed for two seconds."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..comm.communicator import Communicator

QUIET = 2.0  # seconds a loop may run without printing

Item = TypeVar("Item")


class Progress:
    """The lines of one run."""

    def __init__(self, world: Communicator) -> None:
        self.world, self.printed = world, time.monotonic()  # when something was last printed

    def log(self, text: str) -> None:
        """Print whole lines on rank 0 and flush: under mpirun the terminal is not ours."""
        self.printed = time.monotonic()
        if self.world.rank == 0:
            print(text, flush=True)

    def watch(self, items: Iterable[Item], count: int, name: str = "", what: str = "batches") -> Iterator[Item]:
        """Yield the items, printing how far they are whenever nothing was printed for two seconds."""
        for n, item in enumerate(items, 1):
            yield item
            if n < count and time.monotonic() - self.printed > QUIET:
                self.log(f"{name}{': ' if name else ''}{n} of {count} {what}")
