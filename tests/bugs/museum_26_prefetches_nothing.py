"""ZeRO-3 prefetch never has anything to gather: same bits, but every segment waits for its gather."""

from collections.abc import Sequence

from minitrain.nn import Module
from tests.bugs.museum import FunctionBug
from tests.parallel.test_zero import Watched, test_the_next_segment_is_prefetched_and_no_other


class Nothing(Watched):
    """Reports no next segment."""

    def following(self, units: Sequence[Module]) -> Sequence[Module]:
        return ()


BUG = FunctionBug(test_the_next_segment_is_prefetched_and_no_other, (1,), (1, Nothing))
