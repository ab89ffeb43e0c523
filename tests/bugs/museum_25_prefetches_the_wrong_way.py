"""ZeRO-3 prefetches the previous segment: same bits, but later, and what it gathered in vain is not freed."""

from collections.abc import Sequence

from minitrain.nn import Module
from tests.bugs.museum import FunctionBug
from tests.parallel.test_zero import Watched, test_the_next_segment_is_prefetched_and_no_other


class TheWrongWay(Watched):
    """Confuses forward with backward."""

    def following(self, units: Sequence[Module]) -> Sequence[Module]:
        here = next(i for i, segment in enumerate(self.segments) if segment is units)
        following = here - 1 if here > self.last else here + 1
        self.last = here
        return self.segments[following] if 0 <= following < len(self.segments) else ()


BUG = FunctionBug(test_the_next_segment_is_prefetched_and_no_other, (1,), (1, TheWrongWay))
