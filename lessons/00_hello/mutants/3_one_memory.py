"""as if all ranks shared one variable: only rank 2 sets its own mine to 10."""


def printed(ranks):
    mine = [10 if ranks > 2 else rank for rank in range(ranks)]
    return [f"rank {rank} has {mine[rank] + mine[rank - 1]}" for rank in range(ranks)]
