"""Vocabulary parallel with a range that ends one too early: each rank's last id is masked on every rank."""

from typing import Any

from minitrain.backend import Array, xp
from minitrain.nn import Parameter
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class LastIdMasked(TensorIO):
    def rows(self, ids: Array, table: Parameter, dtype: Any) -> Tensor:
        end, V = table.placement.index[0].stop, table.placement.shape[0]
        elsewhere = end % V  # an id that another rank holds
        return super().rows(xp.where(ids == end - 1, elsewhere, ids), table, dtype)


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), io=LastIdMasked)
