"""The training step: the same lines for every strategy."""

import math
from collections.abc import Callable, Sequence

from ..data.batch import Batch
from ..models import Model
from ..observe.recorder import span
from ..optim import Optimizer, clip_grad_norm
from ..parallel.reducer import Reducer
from ..precision import Scaler
from ..tensor import Tensor

UNSCALED = Scaler()


def train_step(
    model: Model,
    batch: Batch,
    reducer: Reducer,
    optimizer: Optimizer,
    lr: float,
    accumulate: int = 1,
    clip: float | None = None,
    scaler: Scaler = UNSCALED,
) -> tuple[float, float]:
    """Make one update from this rank's part of a global batch, in `accumulate` micro-batches.

    Return this rank's part of the loss (the parts of all ranks add up to the loss of the global batch) and the norm of
    the gradient before clipping, which is the same on all ranks. The norm is infinite if the scaler found an overflow
    on any rank. If it is not finite, no rank has stepped and only the loss scale has changed.
    """
    with scaler.expecting():
        loss = compute_gradients(model, batch, reducer, accumulate, scaler)
    if not scaler.unscale(reducer):
        return loss, math.inf
    norm = clip_grad_norm(reducer, clip) if clip else reducer.norm()
    if math.isfinite(norm):
        optimizer.check_norm(min(norm, clip) if clip else norm)
        optimizer.step(lr)
        reducer.gather_parameters()
    return loss, norm


def compute_gradients(
    model: Model, batch: Batch, reducer: Reducer, accumulate: int = 1, scaler: Scaler = UNSCALED
) -> float:
    """Compute the gradients of the global batch, times S, into the reducer; return this rank's part of the loss."""
    reducer.start_step(backwards=accumulate)  # a bucket is complete after each parameter has fired this often
    micros = batch.split(accumulate)
    reducer.look(micros[0])  # once: check a divided model against its plan
    loss = model.train(one_by_one, micros, reducer, scaler.scale)  # a pipeline replaces the loop by its schedule
    reducer.synchronize()
    return loss


def one_by_one(model: Model, micros: Sequence[Batch], reducer: Reducer, scale: Callable[[Tensor], Tensor]) -> float:
    """Run forward and backward on one micro-batch after the other; return their total loss."""
    loss = 0.0
    for i, micro in enumerate(micros):
        with span(f"forward {i}", "forward", micro=i):
            part = model(micro)
        with span(f"backward {i}", "backward", micro=i):
            scale(part).backward()  # buckets are sent as they fill
            reducer.end_backward()  # parameters that were not reached count as fired
        loss += part.item()
    return loss
