"""Gradients are clipped by the norm of the rank's own shards."""

from minitrain.backend import xp
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.zero import Zero1
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.equivalence.test_data_parallel import test_three_ranks


class NormOfAShard(Zero1):
    def squares(self) -> list[list[float]]:
        return [[float(xp.dot(piece.grad, piece.grad))] for piece in self.owned()]


BUG = FunctionBug(
    test_three_ranks,
    (Case("zero1", "ring", clip=0.5),),
    (Case("zero1", "ring", clip=0.5, hooks={"reducers": {**REDUCERS, "zero1": NormOfAShard}}),),
)
