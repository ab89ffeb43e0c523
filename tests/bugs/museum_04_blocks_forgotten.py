"""The parameters inside the blocks are never reduced."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Naive
from tests.bugs.museum import DataParallelBug


class BlocksForgotten(Naive):
    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        pieces = [piece for p, piece in bucket.pieces.items() if not p.placement.path.startswith("blocks.")]
        self.sync([flat[piece] for piece in pieces], group)


BUG = DataParallelBug("naive", reducer=BlocksForgotten)
