"""Only the last micro-batch's gradient is summed over the ranks; the earlier ones stay local."""

from collections.abc import Iterable

from minitrain.backend import Array
from minitrain.nn import Parameter
from minitrain.parallel.data_parallel import Naive
from tests.bugs.museum import DataParallelBug


class LastMicroBatch(Naive):
    def start_step(self, backwards: int = 1) -> None:
        super().start_step(backwards)
        self.local: list[list[Array]] = []

    def end_backward(self, parameters: Iterable[Parameter] | None = None) -> None:
        super().end_backward(parameters)
        if min(self.ended.values()) < self.backwards:
            for bucket in self.trained:
                bucket.fill()
                bucket.written.clear()
            self.local.append([bucket.grad.copy() for bucket in self.trained if bucket.grad is not None])

    def synchronize(self) -> None:
        super().synchronize()
        for micro in self.local:
            for bucket, gradient in zip(self.trained, micro, strict=True):
                assert bucket.grad is not None
                bucket.grad += gradient


BUG = DataParallelBug("naive", reducer=LastMicroBatch, accumulate=3)
