"""Even ranks send and wait before they receive, odd ranks receive first: no deadlock, since rank 1 always receives."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import Shards, even_shards


def ring_all_gather(comm: Communicator, x: Array, tag: Tag, shards: Shards | None = None) -> None:
    n, r = comm.size, comm.rank
    cuts = even_shards(len(x), n) if shards is None else shards
    for step in range(n - 1):
        leaving, arriving = x[cuts[(r - step) % n]], x[cuts[(r - step - 1) % n]]
        if r % 2 == 0:
            comm.send(leaving, (r + 1) % n, tag).wait()
            comm.receive(arriving, (r - 1) % n, tag)
        else:
            comm.receive(arriving, (r - 1) % n, tag)
            comm.send(leaving, (r + 1) % n, tag).wait()
