"""Batches as a function of (seed, batch number), and of nothing else.

A loader keeps no position. Every rank can make global batch number n and take its part, so the run is the same on any
number of ranks, and a run that is resumed at batch n goes on with the batch that it would have had.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .. import rng
from ..backend import to_device
from ..errors import UserError, check_memory, check_seed, check_whole
from .batch import IGNORE, Batch, Where
from .kinds import as_row, as_samples


@runtime_checkable
class Loader(Protocol):
    """What training asks of its data, which may be text, images or anything else."""

    @property
    def batches(self) -> int:
        """Of an epoch, and of a validation."""

    def batch(self, number: int) -> Batch:
        """Global batch `number`, counted from 0; the numbers of an epoch follow those of the one before."""

    def validation(self) -> Iterator[Batch]:
        """Parts of one global batch, which is all of the data."""


class TextLoader:
    """Windows of T + 1 consecutive ids: the inputs are the first T, the labels the last T.

    Training batches are B windows at random places; validation predicts each id of the text but the first, once.
    Raises UserError when the text is shorter than one window, for ids below 0, and for sizes that are none.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray, context: int, batch: int, seed: int) -> None:
        ids = as_row("ids", ids)
        check_whole("context", context, 1)
        check_whole("batch", batch, 1)
        check_seed(seed)
        if len(ids) <= context:
            raise UserError(
                f"a text of {len(ids)} characters has no window of context + 1 = {context + 1}; "
                "give a longer text or a smaller --context"
            )
        if ids.min() < 0:
            raise UserError(f"ids reach down to {ids.min()}; they are counted from 0: give those of a tokenizer")
        size = batch * (context + 1) * (ids.itemsize + np.dtype(np.int64).itemsize)  # ids, and where they stand
        check_memory(f"a batch of {batch} windows", size, "give a smaller --batch")
        self.ids, self.T, self.B, self.seed = ids, context, batch, seed

    @property
    def windows(self) -> int:
        """So many it takes to predict each id but the first."""
        return -(-(len(self.ids) - 1) // self.T)

    @property
    def batches(self) -> int:
        """So many have windows enough to predict each id but the first, once.

        Validation does that. An epoch does it on average: its windows are at random places, so that some ids come twice
        in it, and others not at all.
        """
        return -(-self.windows // self.B)

    def batch(self, number: int) -> Batch:
        """Global batch `number`: inputs and labels (B, T)."""
        check_whole("number", number)
        starts = rng.integers(rng.key(self.seed, "batch", number), self.B, len(self.ids) - self.T)
        where = Where(self.seed, number, self.B, self.T, slice(0, self.B), slice(0, self.T), counted=self.B * self.T)
        return self._windows(starts, where)

    def validation(self, most: int | None = None) -> Iterator[Batch]:
        """Batches of B windows that together predict each id but the first, once (or `most` windows, spread evenly).

        The last window ends where the text does: the labels that it shares with the one before are IGNORE in it. All
        are parts of one global batch of all the windows: their losses add up to the mean.
        """
        predictions = len(self.ids) - 1
        starts = np.minimum(np.arange(self.windows) * self.T, predictions - self.T)
        if most is not None:
            check_whole("most", most, 1)
        if most is not None and most < len(starts):
            starts = starts[np.arange(most) * len(starts) // most]  # never the last, so all their labels count
            predictions = most * self.T
        shared = len(starts) * self.T - predictions
        for first in range(0, len(starts), self.B):
            samples = slice(first, min(first + self.B, len(starts)))
            where = Where(self.seed, 0, len(starts), self.T, samples, slice(0, self.T), False, predictions)
            yield self._windows(starts[samples], where, shared if samples.stop == len(starts) else 0)

    def _windows(self, starts: np.ndarray, where: Where, shared: int = 0) -> Batch:
        """The windows that begin at `starts`; so many labels at the beginning of the last one are ignored."""
        windows = self.ids[starts[:, None] + np.arange(self.T + 1)]
        inputs, labels = windows[:, :-1], windows[:, 1:]
        if shared:
            labels = labels.astype(np.int64)  # IGNORE is negative, and ids may be unsigned
            labels[-1, :shared] = IGNORE
        return Batch(to_device(inputs), to_device(labels), where, starts)


class ArrayLoader:
    """Samples with one label each, such as images: every epoch goes through all of them in a new random order.

    The last batch of an epoch holds what is left over. Samples whose label is IGNORE are left out. Raises UserError for
    inputs and labels of different number, and for values of another kind (see kinds.py).
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
                f"and {IGNORE} is the label of a sample that is to be ignored"
            )
        self.rows = np.flatnonzero(labels != IGNORE)  # of the data
        if not len(self.rows):
            raise UserError(f"the labels are all {IGNORE}, which is to be ignored: give at least one that counts")
        if len(self.rows) < len(labels):
            inputs, labels = inputs[self.rows], labels[self.rows]
        self.inputs, self.labels, self.B, self.seed = inputs, labels, batch, seed
        self.batches = -(-len(inputs) // batch)  # in an epoch

    def batch(self, number: int) -> Batch:
        """Global batch `number`: inputs (B, features), labels (B)."""
        check_whole("number", number)
        epoch, position = divmod(number, self.batches)
        order = rng.permutation(rng.key(self.seed, "epoch", epoch), len(self.inputs))
        chosen = order[position * self.B : (position + 1) * self.B]
        return self._rows(chosen, Where(self.seed, number, len(chosen), 1, slice(0, len(chosen)), slice(0, 1)))

    def validation(self) -> Iterator[Batch]:
        """Batches of B samples that together are all of them, in their order; their losses add up to the mean."""
        n = len(self.inputs)
        for first in range(0, n, self.B):
            samples = slice(first, min(first + self.B, n))
            where = Where(self.seed, 0, n, 1, samples, slice(0, 1), training=False)
            yield self._rows(np.arange(samples.start, samples.stop), where)

    def _rows(self, chosen: np.ndarray, where: Where) -> Batch:
        return Batch(to_device(self.inputs[chosen]), to_device(self.labels[chosen]), where, self.rows[chosen])
