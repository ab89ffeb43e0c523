"""Data parallel: every rank holds the whole model and processes a part of the batch.

    rank 0   samples 0..2   forward  backward  g_0 \\
    rank 1   samples 3..5   forward  backward  g_1  +--> g = g_0 + g_1 + g_2 on every rank --> the same step everywhere
    rank 2   samples 6..7   forward  backward  g_2 /

The loss is a sum over samples divided by the size B of the global batch (not of a rank's part), so its gradient is

    dL/dw = (1/B) sum_i dl_i/dw = sum over ranks r of g_r,      g_r = (1/B) sum over i on r of dl_i/dw,

and one all-reduce with a *sum* yields the gradient of the serial run, even if the ranks' parts are unequal. Equal
initial values and equal gradients keep the replicas equal, so parameters are never sent.

For a model of M bytes on N ranks, a ring all-reduce sends 2 (N-1)/N M bytes per rank and step. Each rank holds as much
as a single process: all parameters, gradients and optimizer state.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020, arXiv:2006.15704.
"""

from collections.abc import Sequence

from ..backend import Array
from ..comm.communicator import Communicator
from ..sharding import Shards
from .buckets import Bucket
from .hooks import Hooks
from .reducer import DividedModel, Reducer
from .strategy import Strategy

TAG = ("dp", "gradients")


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    """Replace each gradient, flat (n), by its sum over the group: all that data parallel adds to the serial run.

    shards: where the all-reduce cuts the gradients into a part for each rank; None: evenly.
    """
    for gradient in gradients:
        group.all_reduce(gradient, TAG, shards=shards)


class DataParallel(Reducer):
    """Base class of both forms. hooks.sync sums gradients over a group of ranks; the default is sync_gradients."""

    def __init__(self, divided: DividedModel, strategy: Strategy = Strategy(), hooks: Hooks = Hooks()) -> None:
        super().__init__(divided, strategy, hooks)
        self.sync = hooks.sync or sync_gradients


class Naive(DataParallel):
    """One all-reduce per parameter after backward: correct, but slow because of many small messages."""

    early = False

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.sync([flat[piece] for piece in bucket.pieces.values()], group)


class Bucketed(DataParallel):
    """One all-reduce per bucket, as soon as backward has completed it."""

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.sync([flat], group, **bucket.shard_arguments)
