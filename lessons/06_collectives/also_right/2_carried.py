"""What has arrived is kept in a buffer of its own and sent from there; x is returned."""

import numpy as np

from minitrain.sharding import even_shards


def ring_all_gather(comm, x, tag, shards=None):
    n, r = comm.size, comm.rank
    cuts = shards or even_shards(len(x), n)
    carried = x[cuts[r]].copy()
    for step in range(1, n):
        arriving = np.zeros_like(x[cuts[r - step]])
        handle = comm.send(carried, (r + 1) % n, tag)
        comm.receive(arriving, (r - 1) % n, tag)
        handle.wait()
        x[cuts[r - step]] = carried = arriving
    return x
