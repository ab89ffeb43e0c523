"""The bias of a row-parallel layer is inside the sum: it is added once per rank."""

from minitrain import fused
from minitrain.nn import Parameter
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class BiasInside(TensorIO):
    def row(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        return self.leave(fused.linear(x, weight, bias))


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), io=BiasInside)
