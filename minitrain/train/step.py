"""The training step: the same lines for every strategy."""

import math
from collections.abc import Callable, Sequence

from ..autograd import Tensor
from ..data.batch import Batch
from ..models import Model
from ..optim import Optimizer, clip_grad_norm
from ..parallel.reducer import Reducer
from ..precision import Scaler

UNSCALED = Scaler()


def train_step(
    model: Model,
    batch: Batch,
    gradients: Reducer,
    optimizer: Optimizer,
    lr: float,
    accumulate: int = 1,
    clip: float | None = None,
    scaler: Scaler = UNSCALED,
) -> tuple[float, float]:
    """One update from this rank's part of a global batch, in `accumulate` micro-batches.

    Returns this rank's part of the loss (the parts of all ranks add up to the loss of the global batch) and the norm of
    the gradient before clipping, which is the same on all ranks. The norm is infinite when the scaler found that the
    gradients overflowed on some rank. When it is no finite number, no rank has made a step, and nothing has changed but
    the scale.
    """
    with scaler.expecting():
        loss = compute_gradients(model, batch, gradients, accumulate, scaler)
    if not scaler.unscale(gradients):
        return loss, math.inf
    norm = clip_grad_norm(gradients, clip) if clip else gradients.norm()
    if math.isfinite(norm):
        optimizer.check_norm(min(norm, clip) if clip else norm)
        optimizer.step(lr)
        gradients.after_step()
    return loss, norm


def compute_gradients(
    model: Model, batch: Batch, gradients: Reducer, accumulate: int = 1, scaler: Scaler = UNSCALED
) -> float:
    """The first half of a step: afterwards `gradients` holds those of the global batch, times the scaler's S."""
    gradients.begin(backwards=accumulate)  # a bucket is complete when each parameter has fired that often
    micros = batch.split(accumulate)
    gradients.look(micros[0])  # once: is a model that is divided what it says?
    loss = model.train(one_by_one, micros, gradients, scaler.scale)  # a pipeline: its schedule, in the loop's place
    gradients.finish()
    return loss


def one_by_one(model: Model, micros: Sequence[Batch], gradients: Reducer, scale: Callable[[Tensor], Tensor]) -> float:
    """Forward and backward of one micro-batch after the other; returns the loss of all."""
    loss = 0.0
    for micro in micros:
        part = model(micro)
        scale(part).backward()  # buckets leave as they fill
        gradients.end_backward()  # what was not reached counts as fired
        loss += part.item()
    return loss
