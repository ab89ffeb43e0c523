"""What a run prints: lines on rank 0, and the progress of a loop whenever nothing was printed for two seconds."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..comm.communicator import Communicator

QUIET = 2.0  # seconds a loop may run without printing

Item = TypeVar("Item")


class Progress:
    """The output of one run."""

    def __init__(self, world: Communicator) -> None:
        self.world, self.printed = world, time.monotonic()  # time of the last output

    def log(self, text: str) -> None:
        """Print whole lines on rank 0 and flush, since under mpirun output may be buffered."""
        self.printed = time.monotonic()
        if self.world.rank == 0:
            print(text, flush=True)

    def watch(self, items: Iterable[Item], count: int, name: str = "", what: str = "batches") -> Iterator[Item]:
        """Yield the items, printing progress whenever nothing was printed for two seconds."""
        for n, item in enumerate(items, 1):
            yield item
            if n < count and time.monotonic() - self.printed > QUIET:
                self.log(f"{name}{': ' if name else ''}{n} of {count} {what}")
