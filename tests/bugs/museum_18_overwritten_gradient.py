"""The second contribution to a gradient overwrites the first: d(x*x)/dx at 3 is 3."""

from minitrain.backend import Array
from minitrain.tensor import Tensor, WeightVjp
from tests.bugs.museum import FunctionBug
from tests.test_autograd import test_a_tensor_used_twice


class Overwritten(Tensor):
    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        self.grad = vjp(g)


BUG = FunctionBug(test_a_tensor_used_twice, tensor=Overwritten)
