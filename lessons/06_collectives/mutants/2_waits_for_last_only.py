"""only the last send is waited for, as if the earlier ones must be done by then."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import Shards, even_shards


def ring_all_gather(comm: Communicator, x: Array, tag: Tag, shards: Shards | None = None) -> None:
    n, r = comm.size, comm.rank
    cuts = even_shards(len(x), n) if shards is None else shards
    sent = None
    for step in range(n - 1):
        sent = comm.send(x[cuts[(r - step) % n]], (r + 1) % n, tag)
        comm.receive(x[cuts[(r - step - 1) % n]], (r - 1) % n, tag)
    if sent is not None:
        sent.wait()
