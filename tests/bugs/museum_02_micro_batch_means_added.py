"""The micro-batch means are added but not divided by their number k: the gradients are k times too large."""

from dataclasses import replace

from minitrain.data.batch import Batch, Where
from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import test_pipeline_is_the_serial_run


class OwnCount(Where):
    @property
    def count(self) -> int:
        return (self.samples.stop - self.samples.start) * self.T


class MeansAdded(Batch):
    def split(self, n: int) -> list[Batch]:
        return [replace(micro, where=OwnCount(**vars(micro.where))) for micro in super().split(n)]


def part(batch: Batch, i: int, n: int) -> Batch:
    return MeansAdded(**vars(batch.part(i, n)))


BUG = FunctionBug(test_pipeline_is_the_serial_run, ("1f1b", True), part=part)
