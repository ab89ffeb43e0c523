"""a rank forwards nothing before it has all chunks."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import shard_of


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    """The flat array x becomes the root's, chunk by chunk: while one chunk is passed on, the next one arrives.

    (N-1) M bytes in total; the last rank has it after N + (N-2) chunk times instead of (N-1) N.
    """
    n, place = comm.size, (comm.rank - root) % comm.size
    chunks = [x[shard_of(len(x), n, step)] for step in range(n)]
    if place > 0:
        for step, chunk in enumerate(chunks):
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
    if place < n - 1:
        for handle in [comm.send(chunk, (comm.rank + 1) % n, tag, step) for step, chunk in enumerate(chunks)]:
            handle.wait()
