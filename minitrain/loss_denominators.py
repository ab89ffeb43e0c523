"""The default denominator of a loss.

A loss is a sum over the tokens or samples of the *global* batch, divided by their number, so partial losses simply add
up. A loss that sees the whole batch divides by its own count, which gives the mean. A loss that sees only a part, on
one of N ranks or in one of k micro-batches, must not divide by its own count: the sum of these means would be N or k
times too large. It takes the count from the batch that the model was called with, or raises UserError.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .backend import Array
    from .data.batch import Batch

IGNORE = -100  # the label of a token not to predict, such as padding; PyTorch's ignore_index

_batch: ContextVar["Batch | None"] = ContextVar("batch", default=None)  # with which the running model was called
_parts: ContextVar[int] = ContextVar("parts", default=1)  # number of parts of the global batch in this step


@contextmanager
def batch_at_work(batch: "Batch") -> Iterator[None]:
    """Treat losses computed inside this context as losses of this batch. Affects only the calling thread."""
    token = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(token)


def expect_parts(parts: int) -> None:
    """Set how many parts the global batch has, for losses outside a model. Affects only the calling thread."""
    _parts.set(parts)


def counted(labels: "Array") -> int:
    """Return the number of labels that are not IGNORE."""
    return int((labels != IGNORE).sum())


def of_labels(loss: str, labels: "Array") -> float:
    """Return the denominator for a loss over these labels.

    Raise UserError if only part of the batch is here and the labels are not the batch's own, ValueError if there is no
    label to count.
    """
    batch, n = _batch.get(), counted(labels)
    if batch is not None and batch.labels is not None and counted(batch.labels) == n:
        return batch.where.count
    return _mean(loss, n, "batch.where.count, if these are the labels that it counts")


def of_elements(loss: str, shape: tuple[int, ...]) -> float:
    """Return the denominator for a loss over all elements of an array of this shape (B, ...), B the local samples.

    Raise UserError if only part of the batch is here and the first axis is not its samples, ValueError if there are no
    elements.
    """
    batch = _batch.get()
    if batch is not None and shape and shape[0] == len(batch.inputs) and _all_time(batch):
        return batch.where.B * math.prod(shape[1:]) or _mean(loss, 0, "")
    return _mean(loss, math.prod(shape), "the number of elements of the whole global batch")


def _mean(loss: str, n: int, give: str) -> float:
    """Return n if the whole batch is here, else raise UserError. Raise ValueError if n is 0."""
    batch = _batch.get()
    whole = _parts.get() == 1 if batch is None else batch.where.samples == slice(0, batch.where.B) and _all_time(batch)
    if not whole:
        raise UserError(
            f"{loss} has no denominator, but sees only a part of the global batch (on one of several ranks, or in one "
            f"of several micro-batches): the mean over a part would be too large.\nGive denominator: {give}"
        )
    if n == 0:
        raise ValueError(f"{loss}: there is nothing to average; give the denominator")
    return n


def _all_time(batch: "Batch") -> bool:
    return batch.where.residual == slice(0, batch.where.T)
