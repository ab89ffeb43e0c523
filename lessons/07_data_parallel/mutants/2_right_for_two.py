"""adds the gradient of only one neighbour, which is right for two ranks and no more."""

import numpy as np

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        arriving = np.empty_like(gradient)
        sent = group.send(gradient.copy(), (group.rank + 1) % group.size, TAG)
        group.receive(arriving, (group.rank - 1) % group.size, TAG)
        sent.wait()
        gradient += arriving
