"""Wrong data parallel 8 of 9: all gradients go to rank 0 and back. The numbers are right; rank 0's line is not."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from tests.bugs.museum import DataParallelBug


def sync(gradients: Sequence[Array], group: Communicator) -> None:
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


BUG = DataParallelBug("bucketed", sync=sync)
