"""One step, then the rest by recursion; the message has the number of its shard."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import Shards, even_shards


def ring_all_gather(comm: Communicator, x: Array, tag: Tag, shards: Shards | None = None) -> None:
    n = comm.size
    cuts = even_shards(len(x), n) if shards is None else shards

    def forward(owner: int, left: int) -> None:
        if left == 0:
            return
        sent = comm.send(x[cuts[owner]], (comm.rank + 1) % n, tag, owner)
        owner = (owner - 1) % n
        comm.receive(x[cuts[owner]], (comm.rank - 1) % n, tag, owner)
        sent.wait()
        forward(owner, left - 1)

    forward(comm.rank, n - 1)
