"""LAMB scales each rank's piece of a parameter by that piece's norms."""

from minitrain.optim import Totals
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.zero import Zero1
from tests.bugs.museum import FunctionBug
from tests.parallel.test_optimizers import test_whole_parameters


class NormsOfAPiece(Zero1):
    def over_shards(self, totals: Totals) -> Totals:
        return totals


BUG = FunctionBug(test_whole_parameters, ("lamb", "zero1 3"), reducers={**REDUCERS, "zero1": NormsOfAPiece})
