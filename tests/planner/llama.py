"""A small Llama, with its own operations written like the library's: the planner's formulas describe it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minitrain import backend, functional, fused
from minitrain.autograd import apply
from minitrain.data.batch import Batch
from minitrain.models import Model
from minitrain.nn import Classifier, Embedding, Linear, Module, Parameter
from minitrain.parallel.plan import Plan
from minitrain.planner.sizes import Sizes
from minitrain.tensor import Tensor

Array = np.ndarray


def rms_norm(x: Tensor, weight: Parameter, epsilon: float = 1e-5) -> Tensor:
    """y = n w with n = x r, r = 1/sqrt(mean(x^2) + epsilon);  gx = r (h - n mean(h n)), h = g w."""
    width = x.shape[-1]
    r = 1 / np.sqrt(backend.row_dots(x.data, x.data) / width + epsilon)
    n = x.data * r

    def vjp(g: Array) -> tuple[Array]:
        h = g * weight.data
        return ((h - n * (backend.row_dots(h, n) / width)) * r,)

    def weight_vjp(g: Array, out: Array | None = None) -> Array:
        sums = backend.column_sums((g * n).reshape(-1, width))
        if out is None:
            return sums
        out[...] = sums
        return out

    return apply(n * weight.data, (x,), vjp, [(weight, weight_vjp)], saved=(n, r))


def rotate(x: Tensor, start: int) -> Tensor:
    """Rotate pairs of x (B, T, H, d) by angles that grow with the position: what it keeps is one number."""

    def turned(array: Array, sign: int) -> Array:
        T, d = array.shape[1], array.shape[-1]
        angle = np.outer(np.arange(start, start + T), 1e4 ** (-np.arange(0, d, 2) / d))[:, None, :]
        c, s = np.cos(angle).astype(array.dtype), sign * np.sin(angle).astype(array.dtype)
        a, b = array[..., : d // 2], array[..., d // 2 :]
        return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)

    return apply(turned(x.data, 1), (x,), lambda g: (turned(g, -1),))


def silu_times(g: Tensor, u: Tensor) -> Tensor:
    """y = g sigmoid(g) u."""

    def vjp(gy: Array) -> tuple[Array, Array]:
        s = 1 / (1 + np.exp(-g.data))
        return gy * u.data * s * (1 + g.data * (1 - s)), gy * g.data * s

    return apply(g.data / (1 + np.exp(-g.data)) * u.data, (g, u), vjp, saved=(g, u))


class RMSNorm(Module):
    per_position = True

    def __init__(self, path: str, width: int, dtype: Any) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (width,), mean=1.0, dtype=dtype, decay=False)

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class GroupedAttention(Module):
    """Each head of keys and values serves H/K heads of queries."""

    def __init__(self, path: str, s: Sizes, make: Callable[..., Linear]) -> None:
        self.path, d = path, s.width // s.heads
        self.query = make(f"{path}.query", s.width, (s.kv_heads, s.heads // s.kv_heads, d))
        self.key = make(f"{path}.key", s.width, (s.kv_heads, d))
        self.value = make(f"{path}.value", s.width, (s.kv_heads, d))
        self.proj = make(f"{path}.proj", s.width, s.width)

    def shard(self, plan: Plan) -> None:
        K = self.key.weight.shape[1]
        plan.column(self.query, self.key, self.value)
        plan.row(self.proj, parts=K)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        start = batch.where.time.start
        B, T, K, n, d = q.shape  # n heads of queries for each of K
        q = functional.transpose(
            functional.reshape(rotate(functional.reshape(q, (B, T, K * n, d)), start), (B, T, K, n, d)), (0, 2, 3, 1, 4)
        )
        k, v = (functional.transpose(y, (0, 2, 1, 3)) for y in (rotate(k, start), v))
        mask = np.tile(np.tri(T, dtype=bool), (n, 1))
        y = fused.attention(functional.reshape(q, (B, K, n * T, d)), k, v, mask)
        y = functional.transpose(functional.reshape(y, (B, K, n, T, d)), (0, 3, 1, 2, 4))
        return self.proj(functional.reshape(y, (B, T, K * n * d)))


class SwiGLU(Module):
    def __init__(self, path: str, s: Sizes, make: Callable[..., Linear]) -> None:
        self.path = path
        self.gate, self.up = (make(f"{path}.{name}", s.width, s.hidden) for name in ("gate", "up"))
        self.down = make(f"{path}.down", s.hidden, s.width)

    def shard(self, plan: Plan) -> None:
        plan.column(self.gate, self.up)
        plan.row(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(silu_times(self.gate(x), self.up(x)))


class LlamaBlock(Module):
    def __init__(self, path: str, s: Sizes, make: Callable[..., Linear], dtype: Any) -> None:
        self.path = path
        self.norm1, self.attn = RMSNorm(f"{path}.norm1", s.width, dtype), GroupedAttention(f"{path}.attn", s, make)
        self.norm2, self.mlp = RMSNorm(f"{path}.norm2", s.width, dtype), SwiGLU(f"{path}.mlp", s, make)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        x = x + self.attn(self.norm1(x), batch)
        return x + self.mlp(self.norm2(x))


class LlamaEmbed(Module):
    def __init__(self, s: Sizes, dtype: Any) -> None:
        self.path, self.tokens = "embed", Embedding("embed.tokens", s.vocabulary, s.width, dtype=dtype)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return self.tokens(batch.inputs)


class LlamaHead(Module):
    def __init__(self, s: Sizes, weight: Parameter, dtype: Any) -> None:
        self.path = "head"
        self.norm, self.classifier = RMSNorm("head.norm", s.width, dtype), Classifier("head.classifier", weight)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.classifier(self.norm(x), batch)


def llama(s: Sizes, dtype: str = "float32") -> Model:
    """Return a Llama of these sizes."""

    def make(path: str, fan_in: int, fan_out: int | tuple[int, ...]) -> Linear:
        return Linear(path, fan_in, fan_out, dtype=dtype, bias=False)

    embed = LlamaEmbed(s, dtype)
    weight = embed.tokens.weight
    if not s.tied:
        weight = Parameter("head.classifier.weight", (s.vocabulary, s.width), dtype=dtype)
    blocks = [LlamaBlock(f"blocks.{i}", s, make, dtype) for i in range(s.layers)]
    return Model([embed, *blocks, LlamaHead(s, weight, dtype)])
