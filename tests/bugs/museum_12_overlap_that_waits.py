"""Overlap waits for each bucket right after submitting it, so nothing overlaps."""

from collections.abc import Callable

from minitrain.parallel.overlap import CommunicationThread
from tests.bugs.museum import FunctionBug
from tests.parallel.test_overlap import test_the_first_bucket_is_under_way_during_backward


class Impatient(CommunicationThread):
    def submit(self, job: Callable[[], None]) -> int:
        number = super().submit(job)
        self.wait()
        return number


BUG = FunctionBug(test_the_first_bucket_is_under_way_during_backward, thread=Impatient)
