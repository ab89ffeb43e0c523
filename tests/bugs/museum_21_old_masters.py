"""A checkpoint is restored into half weights, and the next update writes the old masters over it."""

import numpy as np

from minitrain.backend import Array
from minitrain.optim import Adam
from tests.bugs.museum import FunctionBug
from tests.train.test_values import test_half_weights_that_are_restored_stay


class OldMasters(Adam):
    """Hides from the rule whatever was set in between: the halves are those of the masters again."""

    def step(self, lr: float) -> None:
        for owned, master in zip(self.gradients.owned(), self.masters, strict=False):
            assert master is not None
            owned.data[...] = rounded(master, owned.data)
        super().step(lr)


def rounded(master: Array, like: Array) -> Array:
    return np.asarray(master.astype(like.dtype))


BUG = FunctionBug(test_half_weights_that_are_restored_stay, ("bucketed", "mixed_float16"), optimizer=OldMasters)
