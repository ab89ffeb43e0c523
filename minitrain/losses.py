"""Losses: cross-entropy and mean squared error, each as one operation with a hand-derived backward.

Each is a sum divided by a count over the global batch, so partial losses add up: see loss_denominators.py. Call them as
`fused.cross_entropy` and so on.
"""

from typing import Any

from . import backend
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .loss_denominators import IGNORE, of_elements, of_labels
from .operands import as_ids, as_number, check_dtypes, constant, shape_of
from .reductions import row_max, softmax_rows
from .tensor import Tensor, operation


@operation
def cross_entropy(logits: Tensor, labels: Any, denominator: float | None = None) -> Tensor:
    """L = sum over tokens n of (ln sum_v e^x_nv - x_n,label(n)) / denominator.  logits x (..., V), labels (...).

        gx_nv = g (softmax(x_n)_v - 1[v = label(n)]) / denominator

    A token labelled IGNORE is left out of the sum, and its gradient is 0. The denominator is the number of all other
    tokens in the *global* batch, over all micro-batches and ranks (`batch.where.count`), so partial losses and
    gradients simply add up. By default it is the number of such tokens here, which gives the mean, or the global
    batch's count if only a part is here (loss_denominators.py). The loss is float32 for half-precision logits.
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
    By default L is the mean over the global batch, even if only a part of it is here (loss_denominators.py).
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


def _positive(denominator: float) -> float:
    return as_number("the denominator, the global number of tokens or samples,", denominator, "above 0")
