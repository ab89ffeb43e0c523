"""Data parallel: every rank has the whole model and a part of the batch.

    rank 0   samples 0..2   forward  backward  g_0 \\
    rank 1   samples 3..5   forward  backward  g_1  +--> g = g_0 + g_1 + g_2 on every rank --> the same step everywhere
    rank 2   samples 6..7   forward  backward  g_2 /

The loss is a sum over samples divided by the count of the global batch B (never by a rank's own), so its gradient is

    dL/dw = (1/B) sum_i dl_i/dw = sum over ranks r of g_r,      g_r = (1/B) sum over i on r of dl_i/dw,

and one all-reduce with a *sum* makes it the gradient of the serial run, also when the ranks have unequal parts. Equal
initial values and equal gradients keep the replicas equal for ever: parameters are never sent.

Cost per step for a model of M bytes on N ranks: a ring all-reduce sends 2 (N-1)/N M per rank. Memory per rank is that
of one process: parameters, gradients and optimizer state whole.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020, arXiv:2006.15704.
"""

from collections.abc import Sequence

from ..backend import Array
from ..comm.communicator import Communicator
from ..shares import Cuts
from .flat import Bucket
from .reducer import Divided, Doors, Reducer
from .strategy import Strategy

TAG = ("dp", "gradients")


def sync_gradients(gradients: Sequence[Array], group: Communicator, cuts: Cuts | None = None) -> None:
    """Each gradient becomes its sum over the group. This is all that data parallel adds to the serial run."""
    for gradient in gradients:
        group.all_reduce(gradient, TAG, cuts=cuts)


class DataParallel(Reducer):
    """What the forms have in common. sync: what adds gradients up over a group of ranks."""

    def __init__(self, divided: Divided, strategy: Strategy = Strategy(), doors: Doors = Doors()) -> None:
        super().__init__(divided, strategy, doors)
        self.sync = doors.sync or sync_gradients


class Naive(DataParallel):
    """After backward, one all-reduce for each parameter: right, and slow for its many small messages."""

    early = False

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.sync([flat[piece] for piece in bucket.pieces.values()], group)


class Bucketed(DataParallel):
    """One all-reduce for each bucket, when backward has completed it."""

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.sync([flat], group, **bucket.own_cuts)
