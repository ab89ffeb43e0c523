"""Attention splits the local columns into as many heads as the whole model has."""

from typing import Any

from minitrain import functional as F
from minitrain import fused
from minitrain.data.batch import Batch
from minitrain.models import Attention, Model
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import toy_gpt
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class HeadsOfTheModel(Attention):
    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        heads, qkv = self.qkv.weight.placement.shape[2], self.qkv(x)
        return self.proj(fused.causal_attention(F.reshape(qkv, (*qkv.shape[:3], heads, -1)), batch.where.time.start))


def planted(**options: Any) -> Model:
    """Return the toy GPT with this attention."""
    model = toy_gpt(**options)
    for block in model.units[1:-1]:
        block.attn.__class__ = HeadsOfTheModel  # type: ignore[attr-defined]
    return model


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), make=planted)
