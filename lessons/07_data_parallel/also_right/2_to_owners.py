"""Each rank sends the owners their chunks and gets the sums back: no ring, and no message for an empty chunk."""

import numpy as np

from minitrain.sharding import even_shards


def sync_gradients(gradients, group, shards=None):
    others = [rank for rank in range(group.size) if rank != group.rank]
    for gradient in gradients:
        chunks = [gradient[cut] for cut in shards or even_shards(len(gradient), group.size)]
        mine = chunks[group.rank]
        full = [rank for rank in others if len(chunks[rank])]
        sent = [group.send(chunks[rank], rank, ("my", "chunks")) for rank in full]
        for rank in others if len(mine) else []:
            arriving = np.empty_like(mine)
            group.receive(arriving, rank, ("my", "chunks"))
            mine += arriving
        for handle in sent:
            handle.wait()
        sent = [group.send(mine, rank, ("my", "sums"), 1) for rank in others if len(mine)]
        for rank in full:
            group.receive(chunks[rank], rank, ("my", "sums"), 1)
        for handle in sent:
            handle.wait()
