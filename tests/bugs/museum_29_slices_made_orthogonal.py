"""Tensor parallel: each rank orthogonalizes its own slice of the momentum."""

from collections.abc import Sequence

from minitrain.optim import Work
from tests.bugs.museum import FunctionBug
from tests.parallel.test_optimizers import Muon, test_whole_parameters


class SlicesApart(Muon):
    def apply(self, work: Sequence[Work], lr: float) -> None:
        for it in work:
            for p, _, place in it.owned.pieces:
                w, g, state = self.given(it, place)
                x = self.direction(p, w, g, state, it.owned.decay).reshape(p.shape)
                self.update_with(p, w, self.whole(p, x).reshape(-1), lr, it.owned.decay)


BUG = FunctionBug(test_whole_parameters, ("muon", "tp 2"), make=SlicesApart)
