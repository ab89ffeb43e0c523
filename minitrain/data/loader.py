"""Batches as a pure function of (seed, batch number).

A loader has no state. Any rank can build global batch n and take its part, so the run is the same on any number of
ranks, and a resumed run continues with the batches that would have come next.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .. import rng
from ..backend import to_device
from ..errors import UserError, check_memory, check_seed, check_whole
from .batch import IGNORE, Batch, Where
from .sample_checks import as_row, as_samples


@runtime_checkable
class Loader(Protocol):
    """The interface that training needs from its data, whether text, images or anything else."""

    @property
    def batches(self) -> int:
        """Number of batches in an epoch, and in a validation pass."""

    def batch(self, number: int) -> Batch:
        """Return global batch `number`, counted from 0 and on across epochs."""

    def validation(self) -> Iterator[Batch]:
        """Yield all of the data, as parts of one global batch."""


class TextLoader:
    """Windows of T + 1 consecutive ids of a text (n): the first T are the inputs, the last T the labels.

    A training batch is B windows at random positions. Validation predicts each id but the first, exactly once.
    Raise UserError if the text is shorter than one window, for negative ids, and for invalid sizes.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray, context: int, batch: int, seed: int) -> None:
        ids = as_row("ids", ids)
        check_whole("context", context, 1)
        check_whole("batch", batch, 1)
        check_seed(seed)
        if len(ids) <= context:
            raise UserError(
                f"a text of {len(ids)} tokens is shorter than a window of context + 1 = {context + 1}; "
                "give a longer text or a smaller --context"
            )
        if ids.min() < 0:
            raise UserError(f"the smallest id is {ids.min()}; ids are counted from 0: give ids from a tokenizer")
        size = batch * (context + 1) * (ids.itemsize + np.dtype(np.int64).itemsize)  # ids and their positions
        check_memory(f"a batch of {batch} windows", size, "give a smaller --batch")
        self.ids, self.T, self.B, self.seed = ids, context, batch, seed

    @property
    def windows(self) -> int:
        """Number of windows needed to predict each id but the first."""
        return -(-(len(self.ids) - 1) // self.T)

    @property
    def batches(self) -> int:
        """Number of batches needed to predict each id but the first, once.

        Validation does exactly that; an epoch does so on average. Its windows are at random positions, so some ids
        occur more than once and others not at all.
        """
        return -(-self.windows // self.B)

    def batch(self, number: int) -> Batch:
        """Return global batch `number`: inputs and labels (B, T)."""
        check_whole("number", number)
        starts = rng.integers(rng.key(self.seed, "batch", number), self.B, len(self.ids) - self.T)
        where = Where(self.seed, number, self.B, self.T, slice(0, self.B), slice(0, self.T), counted=self.B * self.T)
        return self._windows(starts, where)

    def validation(self, most: int | None = None) -> Iterator[Batch]:
        """Yield batches of up to B windows that predict each id but the first, once (or `most` windows, spread evenly).

        The last window ends where the text does; the labels it shares with the window before are set to IGNORE. The
        batches are parts of one global batch of all the windows, so their losses add up to the mean.
        """
        predictions = len(self.ids) - 1
        starts = np.minimum(np.arange(self.windows) * self.T, predictions - self.T)
        if most is not None:
            check_whole("most", most, 1)
        if most is not None and most < len(starts):
            starts = starts[np.arange(most) * len(starts) // most]  # never the last window, so all labels count
            predictions = most * self.T
        shared = len(starts) * self.T - predictions
        for first in range(0, len(starts), self.B):
            samples = slice(first, min(first + self.B, len(starts)))
            where = Where(self.seed, 0, len(starts), self.T, samples, slice(0, self.T), False, predictions)
            yield self._windows(starts[samples], where, shared if samples.stop == len(starts) else 0)

    def _windows(self, starts: np.ndarray, where: Where, shared: int = 0) -> Batch:
        """Build the batch of the windows that start at `starts`, ignoring the first `shared` labels of the last one."""
        windows = self.ids[starts[:, None] + np.arange(self.T + 1)]
        inputs, labels = windows[:, :-1], windows[:, 1:]
        if shared:
            labels = labels.astype(np.int64)  # IGNORE is negative, and ids may be unsigned
            labels[-1, :shared] = IGNORE
        return Batch(to_device(inputs), to_device(labels), where, starts)


class ArrayLoader:
    """Samples (n, ...) with one label each (n), such as images. Every epoch visits all of them in a new random order.

    The last batch of an epoch holds the remainder. Samples labeled IGNORE are left out. Raise UserError if the numbers
    of inputs and labels differ, or for values of the wrong kind (see sample_checks.py).
    """

    def __init__(
        self, inputs: Sequence[Any] | np.ndarray, labels: Sequence[int] | np.ndarray, batch: int, seed: int
    ) -> None:
        labels, inputs = as_row("labels", labels), as_samples("inputs", inputs)
        check_whole("batch", batch, 1)
        check_seed(seed)
        if len(inputs) != len(labels) or not len(inputs):
            raise UserError(
                f"there are {len(inputs)} inputs and {len(labels)} labels; the numbers must be equal and above 0"
            )
        wrong = np.flatnonzero((labels < 0) & (labels != IGNORE))
        if len(wrong):
            raise UserError(
                f"the label of row {wrong[0]} is {labels[wrong[0]]}; classes are counted from 0, "
                f"and {IGNORE} marks a sample to ignore"
            )
        self.rows = np.flatnonzero(labels != IGNORE)  # of the data, without those ignored
        if not len(self.rows):
            raise UserError(f"all labels are {IGNORE}, which means ignore: give at least one other label")
        if len(self.rows) < len(labels):
            inputs, labels = inputs[self.rows], labels[self.rows]
        self.inputs, self.labels, self.B, self.seed = inputs, labels, batch, seed
        self.batches = -(-len(inputs) // batch)  # in an epoch

    def batch(self, number: int) -> Batch:
        """Return global batch `number`: inputs (B, features), labels (B)."""
        check_whole("number", number)
        epoch, position = divmod(number, self.batches)
        order = rng.permutation(rng.key(self.seed, "epoch", epoch), len(self.inputs))
        chosen = order[position * self.B : (position + 1) * self.B]
        return self._rows(chosen, Where(self.seed, number, len(chosen), 1, slice(0, len(chosen)), slice(0, 1)))

    def validation(self) -> Iterator[Batch]:
        """Yield all samples in order, in batches of up to B; their losses add up to the mean."""
        n = len(self.inputs)
        for first in range(0, n, self.B):
            samples = slice(first, min(first + self.B, n))
            where = Where(self.seed, 0, n, 1, samples, slice(0, 1), training=False)
            yield self._rows(np.arange(samples.start, samples.stop), where)

    def _rows(self, chosen: np.ndarray, where: Where) -> Batch:
        return Batch(to_device(self.inputs[chosen]), to_device(self.labels[chosen]), where, self.rows[chosen])
