"""Turns a deque of chunks by one in each step, with one buffer for all steps, as long as the longest shard."""

from collections import deque

from minitrain.backend import Array, xp
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.ring import Add
from minitrain.sharding import Shards, even_shards


def ring_reduce_scatter(
    comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None
) -> Array:
    n, r = comm.size, comm.rank
    cuts = even_shards(len(x), n) if shards is None else shards
    chunks = deque(x[cut] for cut in cuts)
    chunks.rotate(1 - r)  # chunk r - 1 is first
    buffer = xp.empty(max(map(len, chunks)), x.dtype)
    for _ in range(n - 1):
        leaving = chunks[0]
        chunks.rotate(1)
        arriving = buffer[: len(chunks[0])]
        sent = comm.send(leaving, (r + 1) % n, tag)
        comm.receive(arriving, (r - 1) % n, tag)
        add(chunks[0], arriving, out=chunks[0])
        sent.wait()
    return chunks[0]
