"""Wrong data parallel 7 of 9: everybody gets rank 0's gradient."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from tests.bugs.museum import DataParallelBug


def sync(gradients: Sequence[Array], group: Communicator) -> None:
    for gradient in gradients:
        group.broadcast(gradient, 0, TAG)


BUG = DataParallelBug("bucketed", sync=sync)
