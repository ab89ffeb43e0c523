"""the whole array is forwarded at once, so all ranks but one wait."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    """The flat array x becomes the root's, chunk by chunk: while one chunk is passed on, the next one arrives.

    (N-1) M bytes in total; the last rank has it after N + (N-2) chunk times instead of (N-1) N.
    """
    n, place = comm.size, (comm.rank - root) % comm.size
    if place > 0:
        comm.receive(x, (comm.rank - 1) % n, tag)
    if place < n - 1:
        comm.send(x, (comm.rank + 1) % n, tag).wait()
