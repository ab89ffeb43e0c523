"""Attention, causal or with any mask, as one operation with a hand-derived backward.

    scores s = scale q k^T      p = softmax(s) over the keys that a query sees      y = p v

`attend` and `attend_vjp` compute it on plain arrays. Call the operations as `fused.causal_attention` and so on.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import backend
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .operands import as_number, as_whole, check_dtypes, is_masked, listed
from .reductions import softmax_rows
from .tensor import Tensor, operation


@operation
def causal_attention(qkv: Tensor, start: int = 0, scale: float | None = None) -> Tensor:
    """Let each position attend to itself and earlier positions.  qkv (B, T, 3, H, D/H) -> y (B, T, H D/H).

    H is the number of local heads. See `attend` for the equation. start: the logical time of qkv's first
    position, its index in the whole sequence. scale: 1/sqrt(D/H) by default. Raise ValueError for any other shape.
    Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, equation 1.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"causal_attention: qkv must have shape (B, T, 3, H, D/H), not {qkv.shape}")
    B, T, _, H, d = qkv.shape
    start = as_whole("causal_attention: start", start)
    scale = scale_of("causal_attention", scale, d)
    q, k, v = heads_of(qkv.data)
    y, p = attend(q, k, v, scale, start, start)

    def vjp(g: Array) -> tuple[Array]:
        gy, out = _by_head(g.reshape(B, T, H, d)), xp.empty((B, T, 3, H, d), g.dtype)
        for part in _parts(*p.shape):
            found = attend_vjp(gy[part], q[part], k[part], v[part], p[part], scale)
            for i, gradient in enumerate(found):
                _by_head(out[:, :, i])[part] = gradient
        return (out,)

    return apply(_by_head(y).reshape(B, T, H * d), (qkv,), vjp, saved=(qkv.data, p))


def heads_of(qkv: Array) -> tuple[Array, Array, Array]:
    """Return q, k and v (B, H, T, D/H), views of qkv (B, T, 3, H, D/H)."""
    return _by_head(qkv[:, :, 0]), _by_head(qkv[:, :, 1]), _by_head(qkv[:, :, 2])


def _by_head(x: Array) -> Array:
    """Return a view (B, H, T, d) of x (B, T, H, d), or the reverse. Products read it as it is, without a copy."""
    return x.transpose(0, 2, 1, 3)


def _parts(B: int, H: int, Tq: int, Tk: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of samples and heads whose scores stay in a CPU's cache through all steps (saves 1% of a step)."""
    samples = max(1, backend.CHUNK // max(1, H * Tq * Tk))
    heads = max(1, min(H, backend.CHUNK // max(1, Tq * Tk)))
    for b in range(0, B, samples):
        for h in range(0, H, heads):
            yield slice(b, b + samples), slice(h, h + heads)


@operation
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, scale: float | None = None) -> Tensor:
    """Let each query attend to the keys that the mask permits.  q (..., Tq, d), k (..., Tk, d), v (..., Tk, e) ->
    y (..., Tq, e). All three have the same leading axes, usually (B, H).

    mask: booleans broadcastable to (..., Tq, Tk), True where the query sees the key; by default it sees every key
    (`np.tri(T, dtype=bool)` is causal). y is 0 for a query that sees no key. scale: 1/sqrt(d) by default. See
    `attend_vjp` for the derivative. Corresponds to PyTorch's scaled_dot_product_attention.
    Raise ValueError for shapes that do not match, TypeError for a non-boolean mask or different dtypes.
    """
    check_dtypes("attention", q, k, v)
    if min(q.ndim, k.ndim, v.ndim) < 2 or not (
        q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    ):
        raise ValueError(
            f"attention: q, k, v have shapes {q.shape}, {k.shape}, {v.shape}; "
            "they must be (..., Tq, d), (..., Tk, d), (..., Tk, e)"
        )
    scale = scale_of("attention", scale, q.shape[-1])
    p = _scores(q.data, k.data, scale)
    if mask is not None:
        seen = _seen(mask, p.shape, q.shape)
        blind = ~seen.any(axis=-1, keepdims=True)  # a softmax over nothing would be 0 / 0
        p += xp.where(seen | blind, 0, -np.inf).astype(p.dtype)
    p = softmax_rows(p, out=p).astype(q.dtype, copy=False)
    if mask is not None:
        p *= ~blind
    y = backend.matmul(p, v.data)
    return apply(y, (q, k, v), lambda g: attend_vjp(g, q.data, k.data, v.data, p, scale), saved=(q, k, v, p))


def _seen(mask: Any, shape: tuple[int, ...], q: tuple[int, ...]) -> Array:
    """Return the mask as an array. Raise TypeError unless it is boolean, ValueError unless it fits the scores."""
    seen = listed(mask)
    if not isinstance(seen, (np.ndarray, xp.ndarray)) or is_masked(seen) or seen.dtype != bool:
        raise TypeError(f"attention: the mask is {shown(mask)}; give booleans, True where a query sees a key")
    fits = seen.ndim <= len(shape) and all(n in (1, m) for n, m in zip(seen.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"attention: q has shape {q}, the mask {seen.shape}; it must fit {shape}, (..., Tq, Tk)")
    return xp.asarray(seen)


def scale_of(operation: str, scale: float | None, d: int) -> float:
    """Return the scale of the scores, by default 1/sqrt(d) for heads of width d."""
    return (d**-0.5 if d else 1.0) if scale is None else as_number(f"{operation}: scale", scale, "finite")


def attend(q: Array, k: Array, v: Array, scale: float, q_start: int, k_start: int) -> tuple[Array, Array]:
    """Return y = p v and p = softmax(scale q k^T) over the keys no later than the query.  Plain arrays.

    q (B, H, Tq, D/H), k and v (B, H, Tk, D/H) -> y like q, p (B, H, Tq, Tk). Query i is at logical time q_start + i,
    key j at k_start + j: the two starts differ when time is divided over ranks.
    """
    q_time, k_time = q_start + xp.arange(q.shape[2])[:, None], k_start + xp.arange(k.shape[2])
    hidden = xp.where(k_time <= q_time, 0.0, -np.inf).astype(backend.accumulation_dtype(q.dtype))
    y, p = xp.empty_like(q), xp.empty((*q.shape[:3], k.shape[2]), q.dtype)
    for part in _parts(*p.shape):
        scores = _scores(q[part], k[part], scale)
        scores += hidden
        p[part] = softmax_rows(scores, out=scores)
        y[part] = backend.matmul(p[part], v[part])
    return y, p


def _scores(q: Array, k: Array, scale: float) -> Array:
    """Return scale q k^T, in float32 for half precision."""
    scores = backend.matmul(q, k.swapaxes(-1, -2), dtype=backend.accumulation_dtype(q.dtype))
    scores *= scale
    return scores


def attend_vjp(g: Array, q: Array, k: Array, v: Array, p: Array, scale: float) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k, v for `attend`, each of its array's shape; g has y's shape. With s = scale q k^T,

    gv = p^T g      gp = g v^T      gs = p (gp - sum_keys gp p)      gq = scale gs k      gk = scale gs^T q .
    """
    gp = backend.matmul(g, v.swapaxes(-1, -2), dtype=backend.accumulation_dtype(g.dtype))
    wide_p = p.astype(gp.dtype, copy=False)
    gs = xp.subtract(gp, backend.row_dots(gp, wide_p), out=gp)
    gs *= wide_p
    gs *= scale
    gs = gs.astype(g.dtype, copy=False)
    gv = backend.matmul(p.swapaxes(-1, -2), g)
    return backend.matmul(gs, k), backend.matmul(gs.swapaxes(-1, -2), q), gv
