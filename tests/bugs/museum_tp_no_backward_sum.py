"""No all-reduce in the backward of a column-parallel layer: the loss is right, upstream gradients are partial."""

from minitrain.comm.communicator import Tag
from minitrain.parallel.tensor_parallel import BLOCK, TensorIO
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class NotCopied(TensorIO):
    def copied(self, x: Tensor, tag: Tag) -> Tensor:
        return x if tag == BLOCK else super().copied(x, tag)


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), io=NotCopied)
