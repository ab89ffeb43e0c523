"""Ranks as threads, with messages as MPI sends large ones: a send ends when its receiver has come for it."""

from queue import Empty, SimpleQueue
from typing import Any

from ..backend import Array
from ..comm.communicator import Communicator
from ..comm.threads import ThreadCommunicator
from ..observe import ledger
from . import trials


class Unbuffered(ThreadCommunicator):
    """A communicator of threads on which `wait` blocks until the message was received. It records what is sent.

    sends: for each message with numbers in it, (receiver, how many such messages this rank had received before).
    """

    def __init__(self, world: Communicator) -> None:
        assert isinstance(world, ThreadCommunicator)
        super().__init__(world.group, world.rank, world.moves)
        self.sends: list[tuple[int, int]] = []
        self.received = self.open = 0

    def _send(self, x: Array, to: int, number: int) -> "Handle":
        super()._send(x, to, number)
        if x.size:
            self.sends.append((to, self.received))
        self.open += 1
        return Handle(self, to, number)

    def _receive(self, x: Array, source: int, number: int) -> None:
        super()._receive(x, source, number)
        self.received += x.size > 0
        self._tell("received", source, receipt(number))

    def habits(self) -> dict[str, Any]:
        """Return what this rank has sent, in words, for a comparison with the reference."""
        following, counted = (self.rank + 1) % self.size, ledger.current()
        return {
            "sent to ranks other than the next": sorted({to for to, _ in self.sends} - {following}),
            "sent messages": len(self.sends),
            "sent under the tags": sorted(tag for tag, size in counted.bytes.items() if size) if counted else [],
            "left sends without waiting for them": self.open,
        }


class Handle:
    """Handle of a message that nobody puts aside."""

    def __init__(self, comm: Unbuffered, to: int, number: int) -> None:
        self.comm, self.to, self.over = comm, to, False
        self.receipts: SimpleQueue = comm.group.mailbox(("told", to, comm.rank, receipt(number)))

    def done(self) -> bool:
        """Return whether the message was received."""
        if not self.receipts.empty():
            self.wait()
        return self.over

    def wait(self) -> None:
        """Block until the message was received. Raise TimeoutError if that takes too long."""
        if self.over:
            return
        try:
            self.receipts.get(timeout=0.8 * trials.WAIT)
        except Empty:
            late = f"wait() for a message that rank {self.to} does not come to receive; a large one is not put aside"
            raise TimeoutError(late) from None
        self.comm.open -= 1
        self.over = True


def receipt(number: int) -> int:
    """Return the number under which the receiver confirms a message; no message has it."""
    return -1 - number
