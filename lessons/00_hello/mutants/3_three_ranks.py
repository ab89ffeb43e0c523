"""gives rank 0 the number of the last rank, also where the last rank is rank 2, which has 10."""


def printed(ranks: int) -> list[str]:
    """Return the lines that `six_lines` prints on `ranks` ranks, in order."""

    mine = [10 if rank == 2 else rank for rank in range(ranks)]
    came = [ranks - 1, *mine[:-1]]
    return [f"rank {rank} has {mine[rank] + came[rank]}" for rank in range(ranks)]
