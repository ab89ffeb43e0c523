"""Wrong data parallel 6 of 9: a buffer of zeros is reduced, not the gradient."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from tests.bugs.museum import DataParallelBug


def sync(gradients: Sequence[Array], group: Communicator) -> None:
    for gradient in gradients:
        group.all_reduce(np.zeros_like(gradient), TAG)


BUG = DataParallelBug("bucketed", sync=sync)
