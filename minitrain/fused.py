"""The layers of a GPT, each as one operation with a hand-derived backward.

Composing them from functional.py would also be correct, but would save more arrays and make more passes over memory.
In the docstrings y is the result, g = dL/dy, gx = dL/dx. Forward and backward read parameters through their Tensor and
never save them: under ZeRO-3 the array used in the forward no longer exists in the backward.

Activations may be in half precision (x's dtype) while parameters are in another dtype. Then an operation rounds its
parameters to half where it uses them, computes in float32, rounds its result once, and writes parameter gradients in
the parameters' dtype. If all dtypes are the same, these conversions do nothing.
"""

import math
from typing import Any

import numpy as np

from . import backend
from .arguments import (
    as_ids,
    as_number,
    as_whole,
    check_dtypes,
    check_parameters,
    constant,
    is_masked,
    listed,
    shape_of,
)
from .autograd import apply
from .backend import Array, xp
from .denominators import IGNORE, of_elements, of_labels
from .errors import check_choice, shown
from .reductions import row_max, softmax_rows
from .tensor import Tensor, operation

BLOCK = 32 * 1024  # elements: small enough to stay in cache through GELU's steps (3 to 5% of a training step)


class Spread:
    """How a rank holds the input of `linear`: here, whole. Sequence parallel holds a shard and gathers it on use."""

    def collect(self, x: Array) -> Array:
        """Return the whole x, which is multiplied, from the part held."""
        return x

    def deliver(self, gx: Array) -> Array:
        """Return the gradient of the part held, from that of the whole x."""
        return gx


WHOLE = Spread()


@operation
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, spread: Spread = WHOLE) -> Tensor:
    """y = x W + b, or y = gelu(x W + b).  x (..., I), W (I, *O), b (*O) -> y (..., *O).

    O may be several axes, such as (3, H, D/H). With x and y as matrices of one row per token,
    u_no = sum_i x_ni W_io + b_o, and y = u, h = g, or with GELU y = gelu(u), h = g gelu'(u):

        gx = h W^T        gW = x^T h        gb = sum over tokens n of h_n .

    GELU is fused in because its derivative can reuse the memory of u, which nothing else needs (up to 2% of a step).
    spread: how x is held, if not whole; only the part held is saved for backward.
    Raise ValueError for shapes that do not match, TypeError for dtypes that do not.
    """
    check_parameters("linear", x, weight, bias)
    dtype, fan_in, out_shape = x.dtype, shape_of("linear: W", weight)[0], weight.shape[1:]
    if shape_of("linear: x", x)[-1] != fan_in:
        raise ValueError(f"linear: x has shape {x.shape}, W {weight.shape}: x's last axis must be {fan_in}")
    if bias is not None and bias.shape != out_shape:
        raise ValueError(f"linear: W has shape {weight.shape}, so b must have shape {out_shape}, not {bias.shape}")
    held = x.data
    whole = spread.collect(held)
    lead = whole.shape[:-1]
    rows, fan_out = math.prod(lead), math.prod(out_shape)
    w = _used(weight, dtype).reshape(fan_in, fan_out)
    y = backend.matmul(whole.reshape(rows, fan_in), w, dtype=backend.accumulation_dtype(dtype))
    del whole, w
    if bias is not None:
        y += bias.data.reshape(fan_out)
    y, slope = _gelu_and_slope(y, dtype) if gelu else (y.astype(dtype, copy=False), None)
    done = [slope is None]

    def h(g: Array) -> Array:
        """Return the gradient of u, computed once, in place of the slope, for the three products below."""
        if slope is None:
            return g.reshape(rows, fan_out)
        if not done[0]:
            xp.multiply(slope, g.reshape(rows, fan_out), out=slope)
            done[0] = True
        return slope

    def vjp(g: Array) -> tuple[Array]:
        gx = backend.matmul(h(g), _used(weight, dtype).reshape(fan_in, fan_out).T)
        return (spread.deliver(gx.reshape(*lead, fan_in)),)

    def weight_vjp(g: Array, out: Array | None = None) -> Array:
        out = xp.empty(weight.shape, weight.dtype) if out is None else out
        x2 = spread.collect(held).reshape(rows, fan_in)
        backend.matmul(x2.T, h(g), out=out.reshape(fan_in, fan_out))
        return out

    def bias_vjp(g: Array, out: Array | None = None) -> Array:
        assert bias is not None
        return _into(bias, out, backend.column_sums(h(g)).reshape(out_shape))

    weights = [(weight, weight_vjp)] + ([(bias, bias_vjp)] if bias is not None else [])
    kept = (held,) if weight.requires_grad else ()
    return apply(y.reshape(*lead, *out_shape), (x,), vjp, weights, saved=kept if slope is None else (*kept, slope))


@operation
def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """y = x + b.  x, y (..., D), b (D); gx = g, gb = sum over rows of g."""
    check_parameters("add_bias", x, bias)
    if bias.shape != shape_of("add_bias: x", x)[-1:]:
        raise ValueError(f"add_bias: x has shape {x.shape}, so b must have shape {x.shape[-1:]}, not {bias.shape}")

    def bias_vjp(g: Array, out: Array | None = None) -> Array:
        return _into(bias, out, _over_rows(g))

    return apply(x.data + _used(bias, x.dtype), (x,), lambda g: (g,), [(bias, bias_vjp)])


@operation
def linear_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """y = x W^T.  x (..., D), W (V, D) -> y (..., V): a classifier whose weight is laid out like the token table.

    gx = g W        gW = g^T x
    """
    check_parameters("linear_transposed", x, weight)
    dtype, (V, D) = x.dtype, shape_of("linear_transposed: W", weight, 2)
    if shape_of("linear_transposed: x", x)[-1] != D:
        raise ValueError(f"linear_transposed: x has shape {x.shape}, W {weight.shape}: x's last axis must be {D}")
    lead = x.shape[:-1]
    rows = math.prod(lead)
    x2 = x.data.reshape(rows, D)

    def vjp(g: Array) -> tuple[Array]:
        return (backend.matmul(g.reshape(rows, V), _used(weight, dtype)).reshape(*lead, D),)

    def weight_vjp(g: Array, out: Array | None = None) -> Array:
        return backend.matmul(g.reshape(rows, V).T, x2, out=out, dtype=weight.dtype)

    y = backend.matmul(x2, _used(weight, dtype).T).reshape(*lead, V)
    return apply(y, (x,), vjp, [(weight, weight_vjp)], saved=(x2,) if weight.requires_grad else ())


@operation
def embedding(ids: Any, table: Tensor, dtype: Any = None) -> Tensor:
    """y = table[ids].  ids (...), table (V, D) -> y (..., D), in `dtype` (default: the table's).

    ids: an array or a list of whole numbers. Every token with id v uses row v, so the gradient of row v is the sum of
    their g. Raise IndexError for an id outside 0..V-1 (a negative id would silently count from the end).
    """
    shape_of("embedding: table", table, 2)
    ids = xp.asarray(as_ids("embedding: ids", ids))
    if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < table.shape[0]):
        raise IndexError(f"ids reach from {ids.min()} to {ids.max()}; the table has rows 0 to {table.shape[0] - 1}")

    def table_vjp(g: Array, out: Array | None = None) -> Array:
        out = xp.empty(table.shape, table.dtype) if out is None else out
        backend.scatter_add(out, ids, g)
        return out

    y = table.data[ids]
    return apply(y if dtype is None else y.astype(dtype, copy=False), weights=[(table, table_vjp)], saved=(ids,))


@operation
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    """y = n w + b with n = (x - mean(x)) r, r = 1/sqrt(var(x) + epsilon), over the last axis.  x, y (..., D); w, b (D).

    Let h = g w, the gradient of n. The mean and the variance depend on every element of the row, and each removes
    one direction from h (the constant direction and n itself):

        gx = r (h - mean(h) - n mean(h n))        gw = sum over rows of g n        gb = sum over rows of g .

    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.
    """
    check_parameters("layer_norm", x, weight, bias)
    epsilon = as_number("layer_norm: epsilon", epsilon, "at least 0")
    width, dtype, acc_dtype = shape_of("layer_norm: x", x)[-1], x.dtype, backend.accumulation_dtype(x.dtype)
    for name, p in (("w", weight), ("b", bias)):
        if p.shape != (width,):
            raise ValueError(f"layer_norm: x has shape {x.shape}, so {name} must have shape ({width},), not {p.shape}")
    centred = x.data.astype(acc_dtype, copy=False) - _row_mean(x.data)
    r = (1 / xp.sqrt(_row_mean(centred * centred) + epsilon)).astype(acc_dtype)
    n = xp.multiply(centred, r, out=centred)
    y = n * weight.data.astype(acc_dtype, copy=False)
    y += bias.data.astype(acc_dtype, copy=False)
    n = n.astype(dtype, copy=False)  # saved in x's dtype

    def vjp(g: Array) -> tuple[Array]:
        h, n_ = (
            g.astype(acc_dtype, copy=False) * weight.data.astype(acc_dtype, copy=False),
            n.astype(acc_dtype, copy=False),
        )
        gx = h - _row_mean(h)
        gx -= n_ * (backend.row_dots(h, n_) / width)
        gx *= r
        return (gx.astype(dtype, copy=False),)

    def weight_vjp(g: Array, out: Array | None = None) -> Array:
        return _into(weight, out, _over_rows(g.astype(acc_dtype, copy=False) * n.astype(acc_dtype, copy=False)))

    def bias_vjp(g: Array, out: Array | None = None) -> Array:
        return _into(bias, out, _over_rows(g))

    return apply(y.astype(dtype, copy=False), (x,), vjp, [(weight, weight_vjp), (bias, bias_vjp)], saved=(n, r))


@operation
def gelu(x: Tensor, approximate: str = "tanh") -> Tensor:
    """y = x P(normal < x), exactly (approximate="none") or by GPT-2's faster approximation ("tanh").  Any shape.

    "tanh": y = x/2 (1 + t), t = tanh(u), u = c (x + 0.044715 x^3), c = sqrt(2/pi)

        dy/dx = (1 + t)/2 + x/2 (1 - t^2) c (1 + 0.134145 x^2)

    "none": y = x/2 (1 + erf(x/sqrt(2)))

        dy/dx = y/x + x e^(-x^2/2) / sqrt(2 pi)

    The forward computes the derivative, while t or erf is available, and saves nothing else. The two forms differ by at
    most 5e-4. Raise UserError for any other value. Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
    """
    check_choice("gelu: approximate", approximate, ("tanh", "none"))
    if approximate == "tanh":
        y, slope = _gelu_and_slope(xp.array(x.data), x.dtype)
    else:
        y, slope = _exact_gelu_and_slope(x.data)
    return apply(y, (x,), lambda g: (g * slope,), saved=(slope,))


def _exact_gelu_and_slope(x: Array) -> tuple[Array, Array]:
    """Return x P(normal < x) and its derivative, in x's dtype."""
    u = x.astype(backend.accumulation_dtype(x.dtype), copy=False)
    below = (1 + backend.erf(u / math.sqrt(2))) / 2
    slope = below + u * xp.exp(-(u * u) / 2) / math.sqrt(2 * math.pi)
    return (u * below).astype(x.dtype, copy=False), slope.astype(x.dtype, copy=False)


def _gelu_and_slope(x: Array, dtype: Any) -> tuple[Array, Array]:
    """Return gelu(x) and its derivative in `dtype`; the derivative overwrites x if x has that dtype.

    Work in blocks small enough to stay in cache through all the steps.
    """
    c, y = math.sqrt(2 / math.pi), xp.empty(x.shape, dtype)
    slope = x if x.dtype == dtype else xp.empty(x.shape, dtype)
    flat_x, flat_y, flat_slope = x.reshape(-1), y.reshape(-1), slope.reshape(-1)
    for lo in range(0, flat_x.size, BLOCK):
        block = slice(lo, lo + BLOCK)
        part = flat_x[block].astype(backend.accumulation_dtype(dtype), copy=False)
        square = part * part
        t = xp.tanh(c * part * (1 + 0.044715 * square))
        half = 0.5 * part
        flat_y[block] = half * (1 + t)
        flat_slope[block] = 0.5 * (1 + t) + half * (1 - t * t) * (c * (1 + 0.134145 * square))
    return y, slope


@operation
def causal_attention(qkv: Tensor, start: int = 0, scale: float | None = None) -> Tensor:
    """Let each position attend to itself and earlier positions.  qkv (B, T, 3, H, D/H) -> y (B, T, H D/H).

    H is the number of local heads. See `attend` for the equation. start: the logical time of the first position in qkv.
    scale: 1/sqrt(D/H) by default. Raise ValueError for any other shape.
    Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, equation 1.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"causal_attention: qkv must have shape (B, T, 3, H, D/H), not {qkv.shape}")
    B, T, _, H, d = qkv.shape
    start = as_whole("causal_attention: start", start)
    scale = _scale("causal_attention", scale, d)
    q, k, v = (xp.ascontiguousarray(qkv.data[:, :, i].transpose(0, 2, 1, 3)) for i in range(3))
    y, p = attend(q, k, v, scale, start, start)

    def vjp(g: Array) -> tuple[Array]:
        gy = g.reshape(B, T, H, d).transpose(0, 2, 1, 3)
        out = xp.empty((B, T, 3, H, d), g.dtype)
        for i, part in enumerate(attend_vjp(gy, q, k, v, p, scale)):
            out[:, :, i] = part.transpose(0, 2, 1, 3)
        return (out,)

    return apply(y.transpose(0, 2, 1, 3).reshape(B, T, H * d), (qkv,), vjp, saved=(q, k, v, p))


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
    scale = _scale("attention", scale, q.shape[-1])
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


def _scale(operation: str, scale: float | None, d: int) -> float:
    """Return the scale of the scores, by default 1/sqrt(d) for heads of width d."""
    return (d**-0.5 if d else 1.0) if scale is None else as_number(f"{operation}: scale", scale, "finite")


def attend(q: Array, k: Array, v: Array, scale: float, q_start: int, k_start: int) -> tuple[Array, Array]:
    """Return y = p v and p = softmax(scale q k^T) over the keys no later than the query.  Plain arrays.

    q (B, H, Tq, D/H), k and v (B, H, Tk, D/H) -> y like q, p (B, H, Tq, Tk). Query i is at logical time q_start + i,
    key j at k_start + j: the two starts differ when time is divided over ranks.
    """
    scores = _scores(q, k, scale)
    q_time = q_start + np.arange(q.shape[2])[:, None]
    k_time = k_start + np.arange(k.shape[2])
    scores += xp.asarray(np.where(k_time <= q_time, 0.0, -np.inf).astype(scores.dtype))
    p = softmax_rows(scores, out=scores).astype(q.dtype, copy=False)
    return backend.matmul(p, v), p


def _scores(q: Array, k: Array, scale: float) -> Array:
    """Return scale q k^T, in float32 for half precision."""
    scores = backend.matmul(q, k.swapaxes(-1, -2), dtype=backend.accumulation_dtype(q.dtype))
    scores *= scale
    return scores


def attend_vjp(g: Array, q: Array, k: Array, v: Array, p: Array, scale: float) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k, v for `attend`. With s = scale q k^T,

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


@operation
def cross_entropy(logits: Tensor, labels: Any, denominator: float | None = None) -> Tensor:
    """L = sum over tokens n of (ln sum_v e^x_nv - x_n,label(n)) / denominator.  logits x (..., V), labels (...).

        gx_nv = g (softmax(x_n)_v - 1[v = label(n)]) / denominator

    A token labelled IGNORE is left out of the sum, and its gradient is 0. The denominator is the number of other tokens
    in the *global* batch, over all micro-batches and ranks (`batch.where.count`), so partial losses and gradients
    simply add up. By default it is their number here (giving the mean), or the batch's count if only a part is seen
    (denominators.py). The loss is float32 for half-precision logits.
    Raise IndexError for any other label outside 0..V-1, ValueError for a denominator that is not positive, UserError
    if it is omitted but cannot be determined.
    """
    labels = xp.asarray(as_ids("cross_entropy: labels", labels))
    denominator = of_labels("cross_entropy", labels) if denominator is None else _positive(denominator)
    V, dtype, acc_dtype = (
        shape_of("cross_entropy: logits", logits)[-1],
        logits.dtype,
        backend.accumulation_dtype(logits.dtype),
    )
    flat, ignored = targets(labels, logits.shape[:-1], V)
    lead, tokens = labels.shape, xp.arange(labels.size)
    x = logits.data.reshape(labels.size, V).astype(acc_dtype, copy=False)
    p = xp.exp(shifted := x - row_max(x))
    z = backend.total(p, axis=-1, keepdims=True)
    losses = xp.log(z)[:, 0] - shifted[tokens, flat]
    if ignored is not None:
        losses[ignored] = 0
    loss = losses.sum() / denominator
    p /= z
    kept = p if x.dtype == dtype else logits.data  # in half precision, save the logits and recompute p

    def vjp(g: Array) -> tuple[Array]:
        p = kept if kept.dtype == acc_dtype else softmax_rows(kept.reshape(-1, V).astype(acc_dtype))
        p[tokens, flat] -= 1  # in place: the tape is walked once, and p has no other use
        gx = xp.multiply(p, g / denominator, out=p)
        if ignored is not None:
            gx[ignored] = 0
        return (gx.astype(dtype, copy=False).reshape(*lead, V),)

    saved = (kept, tokens, flat) if ignored is None else (kept, tokens, flat, ignored)
    return apply(loss.astype(acc_dtype), (logits,), vjp, saved=saved)


def targets(labels: Array, shape: tuple[int, ...], V: int) -> tuple[Array, Array | None]:
    """Return (the labels flattened, with IGNORE replaced by 0; a mask of the ignored ones, or None if there are none).

    Raise ValueError unless labels have this shape, IndexError for a label outside 0..V-1 that is not IGNORE.
    """
    if labels.shape != shape:
        raise ValueError(f"cross_entropy: logits {(*shape, V)} need labels of shape {shape}, not {labels.shape}")
    flat = labels.reshape(-1)
    if not flat.size:
        return flat, None
    least, most, ignored = int(flat.min()), int(flat.max()), None
    if least == IGNORE:
        ignored = flat == IGNORE
        flat = xp.where(ignored, 0, flat)
        least = int(flat.min())
    if least < 0 or most >= V:
        also = f", and {IGNORE} for a token to ignore" if least < 0 else ""
        raise IndexError(f"labels reach from {least} to {most}; there are {V} classes, counted from 0{also}")
    return flat, ignored


@operation
def mean_squared_error(prediction: Tensor, target: Any, denominator: float | None = None) -> Tensor:
    """L = sum over all elements of (y - target)^2 / denominator.  gy = 2 g (y - target) / denominator.

    y, the prediction, and target have the same shape; a list takes y's dtype. The loss is float32 for half precision.
    By default it is the mean, over the global batch even if only a part is seen (denominators.py).
    Raise ValueError for different shapes or a denominator that is not positive, TypeError if the target is a Tensor,
    UserError if the denominator is omitted but cannot be determined.
    """
    denominator = of_elements("mean_squared_error", prediction.shape) if denominator is None else _positive(denominator)
    if isinstance(target, Tensor):
        raise TypeError(f"mean_squared_error: target is {shown(target)}; it gets no gradient: give its array, .data")
    target = constant("mean_squared_error: target", target, prediction.dtype)
    if prediction.shape != target.shape:
        raise ValueError(f"mean_squared_error: prediction has shape {prediction.shape}, target {target.shape}")
    check_dtypes("mean_squared_error", prediction, target)
    dtype = prediction.dtype
    e = prediction.data.astype(backend.accumulation_dtype(dtype)) - target
    return apply(
        ((e * e).sum() / denominator).astype(e.dtype),
        (prediction,),
        lambda g: ((e * (2 * g / denominator)).astype(dtype, copy=False),),
        saved=(e,),
    )


@operation
def dropout(x: Tensor, keep: Array, p: float) -> Tensor:
    """y = x / (1 - p) where `keep`, otherwise 0; gx likewise.  keep: booleans of x's shape, False with probability p.

    nn.Dropout draws the mask from (seed, batch number, layer, position), so it is the same on any mesh.
    Raise ValueError unless 0 <= p < 1 and the shapes agree, TypeError for a non-boolean mask: numbers would scale x.
    Srivastava et al., "Dropout", JMLR 15, 2014.
    """
    p = as_number("dropout: p", p, "at least 0 and less than 1")
    if not isinstance(keep, (xp.ndarray, np.bool_)) or is_masked(keep) or keep.dtype != bool:
        raise TypeError(f"dropout: keep is {shown(keep)}; give an array of booleans")
    if keep.shape != x.shape:
        raise ValueError(f"dropout: x has shape {x.shape}, so keep must have this shape, not {keep.shape}")
    factor = x.dtype.type(1 / (1 - p))  # bfloat16 times a Python number would be float32
    return apply(x.data * keep * factor, (x,), lambda g: (g * keep * factor,), saved=(keep,))


def _into(p: Tensor, out: Array | None, value: Array) -> Array:
    """Return the gradient of the parameter p in p's dtype, written into `out` if given."""
    if out is None:
        return value.astype(p.dtype, copy=False)
    out[...] = value
    return out


def _used(p: Tensor, dtype: Any) -> Array:
    """Return a parameter in the dtype of the activations; converted anew for each use and never saved."""
    return p.data.astype(dtype, copy=False)


def _over_rows(x: Array) -> Array:
    """Return the sum over all axes but the last."""
    return backend.column_sums(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))


def _row_mean(x: Array) -> Array:
    return xp.mean(x, axis=-1, keepdims=True, dtype=backend.accumulation_dtype(x.dtype))


def _positive(denominator: float) -> float:
    return as_number("the denominator, the global number of tokens or samples,", denominator, "above 0")
