"""the buffer has the type of x only for float32 and float64; for other types it is float32."""

from minitrain.backend import xp
from minitrain.sharding import even_shards


def ring_reduce_scatter(comm, x, tag, add=xp.add, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    arriving = xp.empty(max(map(len, chunks)), x.dtype if x.dtype.kind == "f" and x.itemsize > 2 else xp.float32)
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
        sent.wait()
    return chunks[r]
