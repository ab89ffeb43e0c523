"""What a loss is divided by when it is not told.

A loss is the sum over the tokens or samples of the *global* batch, divided by their number, so that partial losses only
ever have to be added. A loss that sees the whole batch divides by what it counts: that is the mean. One that sees a
part, on one of several ranks or in one of several micro-batches, must not: its mean would be N or k times too large. It
takes the number from the batch that the model is called with, or is refused.
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

IGNORE = -100  # the label of a token that is not predicted, such as padding; PyTorch's ignore_index

_batch: ContextVar["Batch | None"] = ContextVar("batch", default=None)  # that the model at work was called with
_parts: ContextVar[int] = ContextVar("parts", default=1)  # of a global batch, in the step that is under way


@contextmanager
def batch_at_work(batch: "Batch") -> Iterator[None]:
    """Losses inside are those of this batch. Per thread."""
    token = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(token)


def expect_parts(parts: int) -> None:
    """From now on a loss outside a model is of one of so many parts of a global batch. Per thread."""
    _parts.set(parts)


def counted(labels: "Array") -> int:
    """How many labels are not IGNORE."""
    return int((labels != IGNORE).sum())


def of_labels(loss: str, labels: "Array") -> float:
    """The denominator for a loss over these labels.

    Raise UserError for a part of a batch with other labels than the batch's own, ValueError for no labels at all.
    """
    batch, n = _batch.get(), counted(labels)
    if batch is not None and batch.labels is not None and counted(batch.labels) == n:
        return batch.where.count
    return _mean(loss, n, "batch.where.count, if these are the labels that it counts")


def of_elements(loss: str, shape: tuple[int, ...]) -> float:
    """The denominator for a loss over all elements of an array of this shape (B, ...), B being the samples held here.

    Raise UserError for a part of a batch where the array is no row for each sample, ValueError for no elements at all.
    """
    batch = _batch.get()
    if batch is not None and shape and shape[0] == len(batch.inputs) and _all_time(batch):
        return batch.where.B * math.prod(shape[1:]) or _mean(loss, 0, "")
    return _mean(loss, math.prod(shape), "the number of elements of the whole global batch")


def _mean(loss: str, n: int, give: str) -> float:
    """n, when it is of a whole batch."""
    batch = _batch.get()
    whole = _parts.get() == 1 if batch is None else batch.where.samples == slice(0, batch.where.B) and _all_time(batch)
    if not whole:
        raise UserError(
            f"{loss} is given no denominator, and sees a part of the global batch (on one of several ranks, or in one "
            f"of several micro-batches): the mean over a part would be too large.\nGive denominator: {give}"
        )
    if n == 0:
        raise ValueError(f"{loss}: there is nothing to take the mean of; give the denominator")
    return n


def _all_time(batch: "Batch") -> bool:
    return batch.where.residual == slice(0, batch.where.T)
