"""The loss, complete on every rank along tp, is summed over tp: t times too large, with the right gradients."""

from minitrain.data.batch import Batch
from minitrain.nn import Parameter
from minitrain.parallel.collective_ops import reduce_from
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.parallel.vocabulary import LOSS
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class LossSummed(TensorIO):
    def classify(self, x: Tensor, weight: Parameter, batch: Batch) -> Tensor:
        return reduce_from(super().classify(x, weight, batch), self.group, LOSS)


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), io=LossSummed)
