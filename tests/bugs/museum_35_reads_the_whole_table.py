"""Under ZeRO-3, a rank reads whole tensors and keeps its shard: every rank has a large table in memory at once."""

from collections.abc import Mapping
from pathlib import Path

from minitrain.backend import Array
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.parallelize import REDUCERS, Make
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import Zero3
from tests.bugs.museum import FolderBug
from tests.train import gpt2_files
from tests.train.test_weights import reads, test_a_rank_reads_what_it_keeps


class Whole(Zero3):
    keeps_shards = False

    def place(self, bucket: Bucket, flat: Array) -> None:
        """Cut the shard from the whole bucket."""
        super().place(bucket, flat[bucket.own_shard].copy())


def check(folder: Path, reducers: Mapping[str, Make] = REDUCERS) -> None:
    """Write a GPT-2 and read it on three ranks."""
    gpt2_files.write(folder, gpt2_files.theirs())
    reads(folder, {"dp": 3}, Strategy(zero=3), 1 / 3, reducers)


BUG = FolderBug(test_a_rank_reads_what_it_keeps, check, reducers={**REDUCERS, "zero3": Whole})
