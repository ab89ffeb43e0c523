"""Attention is scaled by the model width instead of the head width."""

from minitrain import fused
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.test_fused import test_attention_scale_is_that_of_a_head


def attention(qkv: Tensor) -> Tensor:
    heads, width = qkv.shape[-2:]
    return fused.causal_attention(qkv, scale=(heads * width) ** -0.5)


BUG = FunctionBug(test_attention_scale_is_that_of_a_head, attention=attention)
