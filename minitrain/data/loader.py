"""Batches as a function of (seed, batch number), and of nothing else.

A loader keeps no position. Every rank can make global batch number n and take its part, so the run is the same on any
number of ranks, and a run that is resumed at batch n goes on with the batch that it would have had.
"""

from collections.abc import Iterator

import numpy as np

from .. import rng
from ..backend import to_device
from ..errors import UserError, check_ids, check_memory, check_seed, check_whole
from .batch import Batch, Where


class TextLoader:
    """Windows of T + 1 consecutive ids: the inputs are the first T, the labels the last T.

    Training batches are B windows at random places; validation is the text from start to end, without overlap.
    Raises UserError when the text is shorter than one window, and for sizes that are none.
    """

    def __init__(self, ids: np.ndarray, context: int, batch: int, seed: int) -> None:
        check_ids("ids", ids)
        check_whole("context", context, 1)
        check_whole("batch", batch, 1)
        check_seed(seed)
        if len(ids) <= context:
            raise UserError(
                f"a text of {len(ids)} characters has no window of context + 1 = {context + 1}; "
                "give a longer text or a smaller --context"
            )
        size = batch * (context + 1) * (ids.itemsize + np.dtype(np.int64).itemsize)  # ids, and where they stand
        check_memory(f"a batch of {batch} windows", size, "give a smaller --batch")
        self.ids, self.T, self.B, self.seed = ids, context, batch, seed

    def batch(self, number: int) -> Batch:
        """Global batch `number`: inputs and labels (B, T)."""
        check_whole("number", number)
        starts = rng.integers(rng.key(self.seed, "batch", number), self.B, len(self.ids) - self.T)
        return self._windows(starts, number, slice(0, self.B), self.B, training=True)

    def validation(self, most: int | None = None) -> Iterator[Batch]:
        """Batches of B windows that together cover the text (or `most` windows spread over it evenly).

        They are parts of one global batch of all the windows: their losses add up to the mean.
        """
        starts = np.arange((len(self.ids) - 1) // self.T) * self.T
        if most is not None:
            check_whole("most", most, 1)
        if most is not None and most < len(starts):
            starts = starts[np.arange(most) * len(starts) // most]
        for first in range(0, len(starts), self.B):
            samples = slice(first, min(first + self.B, len(starts)))
            yield self._windows(starts[samples], 0, samples, len(starts), training=False)

    def _windows(self, starts: np.ndarray, number: int, samples: slice, B: int, training: bool) -> Batch:
        windows = self.ids[starts[:, None] + np.arange(self.T + 1)]
        where = Where(self.seed, number, B, self.T, samples, slice(0, self.T), training)
        return Batch(to_device(windows[:, :-1]), to_device(windows[:, 1:]), where)


class ArrayLoader:
    """Samples with one label each, such as images: every epoch goes through all of them in a new random order.

    The last batch of an epoch holds what is left over. Raises UserError for inputs and labels of different number,
    and for labels that are no ids.
    """

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, batch: int, seed: int) -> None:
        check_ids("labels", labels)
        check_whole("batch", batch, 1)
        check_seed(seed)
        if not getattr(inputs, "ndim", 0):
            raise UserError(f"inputs is {inputs!r}; it must be an array with one row a sample")
        if len(inputs) != len(labels) or not len(inputs):
            raise UserError(
                f"there are {len(inputs)} inputs and {len(labels)} labels; the numbers must be equal and above 0"
            )
        self.inputs, self.labels, self.B, self.seed = inputs, labels, batch, seed
        self.batches = -(-len(inputs) // batch)  # in an epoch

    def batch(self, number: int) -> Batch:
        """Global batch `number`: inputs (B, features), labels (B)."""
        check_whole("number", number)
        epoch, position = divmod(number, self.batches)
        order = rng.permutation(rng.key(self.seed, "epoch", epoch), len(self.inputs))
        chosen = order[position * self.B : (position + 1) * self.B]
        where = Where(self.seed, number, len(chosen), 1, slice(0, len(chosen)), slice(0, 1))
        return Batch(to_device(self.inputs[chosen]), to_device(self.labels[chosen]), where)

    def validation(self) -> Iterator[Batch]:
        """Batches of B samples that together are all of them, in their order; their losses add up to the mean."""
        n = len(self.inputs)
        for first in range(0, n, self.B):
            samples = slice(first, min(first + self.B, n))
            where = Where(self.seed, 0, n, 1, samples, slice(0, 1), training=False)
            yield Batch(to_device(self.inputs[samples]), to_device(self.labels[samples]), where)
