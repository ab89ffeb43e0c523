"""adds in place, so each rank gets what the one before has after its own addition."""


def printed(ranks: int) -> list[str]:
    """Return the lines that `six_lines` prints on `ranks` ranks, in order."""

    everyone = [10 if rank == 2 else rank for rank in range(ranks)]
    lines = []
    for rank in range(ranks):
        everyone[rank] += everyone[rank - 1]
        lines.append(f"rank {rank} has {everyone[rank]}")
    return lines
