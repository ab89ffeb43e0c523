"""No all-reduce in the backward of a column-parallel layer: the loss is right, the gradients before it are parts."""

from minitrain import fused
from minitrain.autograd import Tensor
from minitrain.parallel.tensor_parallel import TENSOR, ColumnLinear, RowLinear, TensorFeedForward
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class NotCopied(ColumnLinear):
    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return fused.linear(x, self.weight, self.bias, gelu)


class Planted(TensorFeedForward):
    kinds = (NotCopied, RowLinear)


TABLE = {**TENSOR, r"blocks\.\d+\.mlp": Planted}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), table=TABLE)
