"""Sends each owner its shard of the gradient, and all ranks the new parameters: no ring, nothing for an empty shard."""

import numpy as np

from minitrain.sharding import even_shards


def zero1_step(w, g, group, update):
    cuts, mine = even_shards(len(w), group.size), group.rank
    others = [rank for rank in range(group.size) if rank != mine]
    owners = [rank for rank in others if cuts[rank].start < cuts[rank].stop]
    own, total = w[cuts[mine]], None
    sent = [group.send(g[cuts[rank]], rank, ("my", "gradients")) for rank in owners]
    if len(own):
        total = np.zeros_like(own)
        for rank in others:
            arriving = np.empty_like(own)
            group.receive(arriving, rank, ("my", "gradients"))
            total += arriving
        update(own, total + g[cuts[mine]])
        sent += [group.send(own, rank, ("my", "parameters"), 1) for rank in others]
    for rank in owners:
        group.receive(w[cuts[rank]], rank, ("my", "parameters"), 1)
    for handle in sent:
        handle.wait()
