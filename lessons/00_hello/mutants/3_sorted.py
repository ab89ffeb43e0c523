"""the lines are sorted as texts, so rank 10 comes before rank 2."""


def printed(ranks):
    mine = [10 if rank == 2 else rank for rank in range(ranks)]
    return sorted(f"rank {rank} has {mine[rank] + mine[rank - 1]}" for rank in range(ranks))
