"""Vocabulary parallel whose range ends one early: the last id of each rank is masked on all of them."""

from minitrain.autograd import Tensor
from minitrain.backend import Array, xp
from minitrain.parallel.tensor_parallel import TENSOR, VocabularyEmbedding, own_rows
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class LastIdMasked(VocabularyEmbedding):
    def partial(self, ids: Array) -> Tensor:
        end, V = self.weight.placement.index[0].stop, self.weight.placement.shape[0]
        elsewhere = end % V  # an id of another rank
        return own_rows(xp.where(ids == end - 1, elsewhere, ids), self.weight)


TABLE = {**TENSOR, r"embed\.tokens": LastIdMasked}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), table=TABLE)
