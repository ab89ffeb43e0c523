"""The bias of a row-parallel layer stands inside the sum: it is added once for every rank."""

from minitrain import fused
from minitrain.autograd import Tensor
from minitrain.parallel.collective_ops import reduce_from
from minitrain.parallel.tensor_parallel import BLOCK, TENSOR, ColumnLinear, RowLinear, TensorFeedForward
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class BiasInside(RowLinear):
    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return reduce_from(fused.linear(x, self.weight, self.bias), self.group, BLOCK)


class Planted(TensorFeedForward):
    kinds = (ColumnLinear, BiasInside)


TABLE = {**TENSOR, r"blocks\.\d+\.mlp": Planted}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), table=TABLE)
