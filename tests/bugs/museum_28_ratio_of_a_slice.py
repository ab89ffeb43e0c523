"""Tensor parallel: LARS scales each rank's slice of a matrix by that slice's norms."""

import numpy as np

from minitrain.optim import Found, Totals
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.parallel.test_optimizers import test_whole_parameters


class NormsOfASlice(Bucketed):
    def over_pieces(self, found: Found) -> Totals:
        totals = {p: np.zeros(2) for p in self.fired}
        for p, numbers in found:
            totals[p] += numbers
        return totals


BUG = FunctionBug(test_whole_parameters, ("lars", "tp 2"), reducers={**REDUCERS, "bucketed": NormsOfASlice})
