"""The layers that models are built from.

Every layer is written for a single process. Whoever builds the model gives each layer its path ("blocks.0.mlp.up"). A
layer reads sizes from the parameters it holds, never from the config, so a transformation can slice a parameter or
replace a layer's class without changing the layer's code.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import fused, rng
from ..backend import Array, to_device
from ..data.batch import Batch
from ..errors import UserError, check_number
from ..kv_cache import cached_attention
from ..tensor import Tensor
from .module import Module
from .parameter import Parameter

if TYPE_CHECKING:
    from ..parallel.plan import Plan


class Linear(Module):
    """y = x W + b, W (I, *O), b (*O); with bias=False y = x W."""

    per_position = True

    def __init__(
        self,
        path: str,
        fan_in: int,
        fan_out: int | tuple[int, ...],
        std: float = 0.02,
        dtype: Any = np.float32,
        bias: bool = True,
    ) -> None:
        self.path = path
        out = fan_out if isinstance(fan_out, tuple) else (fan_out,)
        self.weight = Parameter(f"{path}.weight", (fan_in, *out), std=std, dtype=dtype)
        self.bias = Parameter(f"{path}.bias", out, dtype=dtype, decay=False) if bias else None

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Map x (..., I) to (..., *O), followed by GELU if gelu=True. Raise ValueError for any other last axis."""
        return fused.linear(self.cast_input("linear", x), self.weight, self.bias, gelu)


class LayerNorm(Module):
    """Normalize the last axis to mean 0 and variance 1, then scale and shift: see fused.layer_norm. weight, bias (D).

    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.
    """

    per_position = True

    def __init__(self, path: str, width: int, dtype: Any = np.float32, epsilon: float = 1e-5) -> None:
        self.path, self.epsilon = path, epsilon
        self.weight = Parameter(f"{path}.weight", (width,), mean=1.0, dtype=dtype, decay=False)
        self.bias = Parameter(f"{path}.bias", (width,), dtype=dtype, decay=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return fused.layer_norm(self.cast_input("layer_norm", x), self.weight, self.bias, self.epsilon)


class Embedding(Module):
    """A lookup table with one row per id: weight (V, D)."""

    def __init__(self, path: str, rows: int, width: int, std: float = 0.02, dtype: Any = np.float32) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (rows, width), std=std, dtype=dtype)

    def shard(self, plan: "Plan") -> None:
        """Divide the rows of the table."""
        plan.vocabulary(self)

    def __call__(self, ids: Array) -> Tensor:
        """Map ids (...) to (..., D). Raise IndexError for an id outside 0..V-1."""
        return fused.embedding(ids, self.weight, self.compute_dtype("embedding", self.weight.dtype))


class Dropout(Module):
    """Zero each element with probability p during training, and multiply the others by 1 / (1 - p).

    The mask depends on the seed, the batch number, the path and the logical position of the element, so it is the same
    on any mesh and when the forward is replayed. Raise UserError unless 0 <= p < 1.
    Srivastava et al., "Dropout", JMLR 15, 2014.
    """

    per_position = True

    def __init__(self, path: str, p: float) -> None:
        check_number(f"{path}: p", p, "at least 0 and less than 1")
        self.path, self.p = path, p

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        where = batch.where
        if self.p == 0 or not where.training:
            return x
        width = x.shape[-1]
        shape, index = (where.B, where.T, width), (where.samples, where.residual, slice(0, width))
        keep = rng.mask(rng.key(where.seed, "dropout", where.number, self.path), shape, index, self.p)
        return fused.dropout(x, to_device(keep), self.p)


class CausalAttention(Module):
    """Causal attention over q, k and v, for the heads held on this rank, without parameters.

    scale: of the scores, 1/sqrt(D/H) by default. Vaswani et al., arXiv:1706.03762, equation 1.
    """

    def __init__(self, path: str, scale: float | None = None) -> None:
        self.path, self.scale = path, scale

    def __call__(self, qkv: Tensor, batch: Batch) -> Tensor:
        """Map qkv (B, T, 3, H, D/H) to (B, T, D). Raise UserError unless qkv covers every position of the batch."""
        time = batch.where.time
        if qkv.ndim > 1 and qkv.shape[1] != time.stop - time.start:
            given = f"{self.path} received {qkv.shape[1]} positions, but"
            if batch.where.T == 1:
                raise UserError(
                    f"{given} the batch has where.T = 1: its samples are not sequences.\n"
                    "ArrayLoader makes such batches; for sequences with one label each, build Batch(ids, labels, "
                    "Where(seed, number, B, T, slice(0, B), slice(0, T), counted=B))"
                )
            raise UserError(
                f"{given} the batch has {time.stop - time.start}: attention needs all of them.\n"
                "Under sequence parallel, divide the layer before it in `shard` (plan.heads)"
            )
        qkv = self.cast_input("attention", qkv)
        if batch.cache is not None:
            return cached_attention(qkv, batch.cache, self.path, time.start, self.scale)
        return fused.causal_attention(qkv, time.start, self.scale)


class Classifier(Module):
    """logits = x W^T and their cross-entropy. W (V, D) has the layout of the token table, and may be the same one."""

    def __init__(self, path: str, weight: Parameter) -> None:
        self.path = path
        self.weight = weight

    def shard(self, plan: "Plan") -> None:
        """Divide the rows of W, one per class."""
        plan.vocabulary(self)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Map x (B, T, D) to the loss, or to the logits (B, T, V) if the batch has no labels: see loss_or_logits."""
        logits = fused.linear_transposed(self.cast_input("linear", x), self.weight)
        return loss_or_logits(logits, batch)


def loss_or_logits(logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of logits (..., V), or the logits themselves if the batch has no labels.

    Raise UserError, naming the batch and the row of the data, for labels outside 0..V-1.
    """
    if batch.labels is None:
        return logits
    try:
        return fused.cross_entropy(logits, batch.labels, batch.where.count)
    except IndexError as error:
        raise batch.mislabelled(logits.shape[-1]) from error
