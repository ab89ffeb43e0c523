"""Rows first, then columns, with GELU before the sum: gelu(a) + gelu(b) is not gelu(a + b)."""

from minitrain import fused
from minitrain.autograd import Tensor
from minitrain.parallel.collective_ops import gather_from, reduce_from, split_to
from minitrain.parallel.tensor_parallel import BLOCK, TENSOR, ColumnLinear, RowLinear, TensorFeedForward
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class Rows(RowLinear):
    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        h = fused.linear(split_to(x, self.group, BLOCK, axis=2), self.weight, None, gelu)
        return fused.add_bias(reduce_from(h, self.group, BLOCK), self.bias)


class Columns(ColumnLinear):
    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return gather_from(super().__call__(x), self.group, BLOCK, axis=2, n=self.bias.placement.shape[0])


class Planted(TensorFeedForward):
    kinds = (Rows, Columns)


TABLE = {**TENSOR, r"blocks\.\d+\.mlp": Planted}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), table=TABLE)
