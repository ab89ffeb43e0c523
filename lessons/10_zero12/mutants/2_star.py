"""rank 0 sums everything and does the step alone, for all: it sends and holds what N ranks should."""

import numpy as np

from minitrain.parallel.zero import GRADIENTS, PARAMETERS


def zero1_step(w, g, group, update):
    if group.rank == 0:
        arriving = np.empty_like(g)
        for other in range(1, group.size):
            group.receive(arriving, other, GRADIENTS)
            g += arriving
        update(w, g)
        for other in range(1, group.size):
            group.send(w, other, PARAMETERS).wait()
    else:
        group.send(g, 0, GRADIENTS).wait()
        group.receive(w, 0, PARAMETERS)
