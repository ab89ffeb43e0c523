"""as if there were always a rank 2: with two ranks there is none."""


def printed(ranks):
    if ranks == 1:
        return ["rank 0 has 0"]
    mine = list(range(ranks))
    mine[2] = 10
    return [f"rank {rank} has {mine[rank] + mine[rank - 1]}" for rank in range(ranks)]
