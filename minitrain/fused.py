"""The layers of a GPT, each as one operation with a hand-derived backward.

Composing them from functional.py would also be correct, but would save more arrays and make more passes over memory.
In the docstrings y is the result, g = dL/dy, gx = dL/dx. Forward and backward read parameters through their Tensor and
never save them: under ZeRO-3 the array used in the forward no longer exists in the backward.
attention.py, gelu.py and losses.py have their own files; call all of them as `fused.linear`, `fused.attention`, ...

Activations may be in half precision (x's dtype) while parameters are in another dtype. Then an operation rounds its
parameters to half where it uses them, computes in float32, rounds its result once, and writes parameter gradients in
the parameters' dtype. If all dtypes are the same, these conversions do nothing.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .attention import attention, causal_attention
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .gelu import gelu, gelu_and_slope
from .loss_denominators import IGNORE
from .losses import cross_entropy, mean_squared_error
from .operands import as_ids, as_number, check_parameters, is_masked, shape_of
from .tensor import Tensor, operation

# fmt: off
__all__ = [
    "IGNORE", "Spread", "add_bias", "attention", "causal_attention", "cross_entropy", "dropout", "embedding", "gelu",
    "layer_norm", "linear", "linear_transposed", "mean_squared_error",
]
# fmt: on


class Spread:
    """How a rank holds the input of `linear`: here, whole. Sequence parallel holds a shard and gathers it on use."""

    def collect(self, x: Array) -> Array:
        """Return the whole x (..., I), which is multiplied, from the part held."""
        return x

    def deliver(self, gx: Array) -> Array:
        """Return the gradient of the part held, from that of the whole x (..., I)."""
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
    fan_in, out_shape = _check_linear(x, weight, bias)
    dtype, held = x.dtype, x.data
    whole = spread.collect(held)
    lead = whole.shape[:-1]
    rows, fan_out = math.prod(lead), math.prod(out_shape)
    w = _used(weight, dtype).reshape(fan_in, fan_out)
    y = backend.matmul(whole.reshape(rows, fan_in), w, dtype=backend.accumulation_dtype(dtype))
    del whole, w
    if bias is not None:
        y += bias.data.reshape(fan_out)
    y, slope = gelu_and_slope(y, dtype) if gelu else (y.astype(dtype, copy=False), None)
    h = _gradient_of_u(slope, rows, fan_out)

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


def _check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """Return (I, O) of W (I, *O). Raise ValueError for shapes that do not match, TypeError for such dtypes."""
    check_parameters("linear", x, weight, bias)
    fan_in, *out = shape_of("linear: W", weight)
    if shape_of("linear: x", x)[-1] != fan_in:
        raise ValueError(f"linear: x has shape {x.shape}, W {weight.shape}: x's last axis must be {fan_in}")
    if bias is not None and bias.shape != tuple(out):
        raise ValueError(f"linear: W has shape {weight.shape}, so b must have shape {tuple(out)}, not {bias.shape}")
    return fan_in, tuple(out)


def _gradient_of_u(slope: Array | None, rows: int, fan_out: int) -> Callable[[Array], Array]:
    """Return linear's h(g). With GELU it is computed once, in place of the slope, for three products."""
    done = False

    def h(g: Array) -> Array:
        nonlocal done
        if slope is None:
            return g.reshape(rows, fan_out)
        if not done:
            xp.multiply(slope, g.reshape(rows, fan_out), out=slope)
            done = True
        return slope

    return h


@operation
def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """y = x + b.  x, y (..., D), b (D); gx = g, gb = sum over rows of g. Raise ValueError for another shape of b."""
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

    Raise ValueError for shapes that do not match.
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

    Raise ValueError if w or b has another shape.
    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.
    """
    check_parameters("layer_norm", x, weight, bias)
    epsilon = as_number("layer_norm: epsilon", epsilon, "at least 0")
    width, dtype, acc_dtype = shape_of("layer_norm: x", x)[-1], x.dtype, backend.accumulation_dtype(x.dtype)
    for name, p in (("w", weight), ("b", bias)):
        if p.shape != (width,):
            raise ValueError(f"layer_norm: x has shape {x.shape}, so {name} must have shape ({width},), not {p.shape}")
    wide = x.data.astype(acc_dtype, copy=False)
    centred = wide - backend.row_means(wide)
    r = (1 / xp.sqrt(backend.row_dots(centred, centred) / width + epsilon)).astype(acc_dtype)
    n = xp.multiply(centred, r, out=centred)
    y = n * weight.data.astype(acc_dtype, copy=False)
    y += bias.data.astype(acc_dtype, copy=False)
    n = n.astype(dtype, copy=False)  # saved in x's dtype

    def vjp(g: Array) -> tuple[Array]:
        h, n_ = (
            g.astype(acc_dtype, copy=False) * weight.data.astype(acc_dtype, copy=False),
            n.astype(acc_dtype, copy=False),
        )
        gx = h - backend.row_means(h)
        gx -= n_ * (backend.row_dots(h, n_) / width)
        gx *= r
        return (gx.astype(dtype, copy=False),)

    def weight_vjp(g: Array, out: Array | None = None) -> Array:
        return _into(weight, out, _over_rows(g.astype(acc_dtype, copy=False) * n.astype(acc_dtype, copy=False)))

    def bias_vjp(g: Array, out: Array | None = None) -> Array:
        return _into(bias, out, _over_rows(g))

    return apply(y.astype(dtype, copy=False), (x,), vjp, [(weight, weight_vjp), (bias, bias_vjp)], saved=(n, r))


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
