"""With NumPy: what the ranks have, and the same one place further."""

import numpy as np


def printed(ranks):
    mine = np.arange(ranks)
    mine[mine == 2] = 10
    return [f"rank {rank} has {value}" for rank, value in enumerate(mine + np.roll(mine, 1))]
