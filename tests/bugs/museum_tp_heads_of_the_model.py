"""Attention divides what is held here into as many heads as the whole model has."""

from minitrain import functional as F
from minitrain import fused
from minitrain.autograd import Tensor
from minitrain.data.batch import Batch
from minitrain.parallel.tensor_parallel import TENSOR, TensorAttention
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class HeadsOfTheModel(TensorAttention):
    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        heads, qkv = self.qkv.weight.placement.shape[2], self.qkv(x)
        return self.proj(fused.causal_attention(F.reshape(qkv, (*qkv.shape[:3], heads, -1)), batch.where.time.start))


TABLE = {**TENSOR, r"blocks\.\d+\.attn": HeadsOfTheModel}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), table=TABLE)
