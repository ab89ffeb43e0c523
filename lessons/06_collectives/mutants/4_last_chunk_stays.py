"""one step too few: the last chunk never leaves the root."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import shard_of


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    """Replace the flat array x by the root's, pipelined: a rank forwards one chunk while it receives the next.

    Sends (N-1) M bytes in total; the last rank is done after N + (N-2) chunk times instead of (N-1) N.
    """
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n - 1):
        chunk = x[shard_of(len(x), n, step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
        if place < n - 1:
            sent.append(comm.send(chunk, (comm.rank + 1) % n, tag, step))
    for handle in sent:
        handle.wait()
