"""A checkpoint is restored into half-precision weights, and the next update overwrites it with the old masters."""

import numpy as np

from minitrain.backend import Array
from minitrain.optim import Adam
from tests.bugs.museum import FunctionBug
from tests.train.test_values import test_half_weights_that_are_restored_stay


class OldMasters(Adam):
    """Reset the half-precision weights to the masters before each step, which undoes any change made in between."""

    def step(self, lr: float) -> None:
        for owned, master in zip(self.reducer.owned(), self.masters, strict=False):
            assert master is not None
            owned.data[...] = rounded(master, owned.data)
        super().step(lr)


def rounded(master: Array, like: Array) -> Array:
    return np.asarray(master.astype(like.dtype))


BUG = FunctionBug(test_half_weights_that_are_restored_stay, ("bucketed", "mixed_float16"), optimizer=OldMasters)
