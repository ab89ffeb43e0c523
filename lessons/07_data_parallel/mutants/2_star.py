"""everything goes to rank 0 and back: the numbers are right, but rank 0 sends N - 1 times the model."""

import numpy as np

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        if group.rank == 0:
            arriving = np.empty_like(gradient)
            for other in range(1, group.size):
                group.receive(arriving, other, TAG)
                gradient += arriving
            for other in range(1, group.size):
                group.send(gradient, other, TAG).wait()
        else:
            group.send(gradient, 0, TAG).wait()
            group.receive(gradient, 0, TAG)
