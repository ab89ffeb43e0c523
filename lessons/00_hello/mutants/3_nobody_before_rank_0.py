"""as if there were no rank before rank 0: everyone[-1] is the last rank's value."""


def printed(ranks):
    mine = [10 if rank == 2 else rank for rank in range(ranks)]
    return [f"rank {rank} has {mine[rank] + (mine[rank - 1] if rank else 0)}" for rank in range(ranks)]
