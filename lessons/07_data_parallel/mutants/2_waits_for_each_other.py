"""every rank first waits for a message, and no rank sends one."""

import numpy as np

from minitrain.parallel.data_parallel import TAG

SAYS = "waits in receive from rank"


def sync_gradients(gradients, group):
    for gradient in gradients:
        arriving = np.empty_like(gradient)
        group.receive(arriving, (group.rank - 1) % group.size, TAG)
        group.send(gradient, (group.rank + 1) % group.size, TAG).wait()
        gradient += arriving
