"""The optimizer normalizes the gradient, which is right for whole parameters and wrong for shards."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.optim import SGD
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.equivalence.test_data_parallel import test_three_ranks


class Normalised(SGD):
    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        super().update(w, g / ((g * g).sum() ** 0.5 + 1e-12), state, lr, decay)


BUG = FunctionBug(test_three_ranks, (Case("zero1", "ring"),), (Case("zero1", "ring", make=Normalised),))
