"""The mean of the micro-batch means, which is right only if all have equally many samples."""

from dataclasses import replace

from minitrain.data.batch import Batch, Where
from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import MICROS, test_pipeline_is_the_serial_run


class OwnCount(Where):
    @property
    def count(self) -> int:
        return MICROS * (self.samples.stop - self.samples.start) * self.T


class MeanOfMeans(Batch):
    def split(self, n: int) -> list[Batch]:
        return [replace(micro, where=OwnCount(**vars(micro.where))) for micro in super().split(n)]


def part(batch: Batch, i: int, n: int) -> Batch:
    return MeanOfMeans(**vars(batch.part(i, n)))


BUG = FunctionBug(test_pipeline_is_the_serial_run, ("1f1b", True), part=part)
