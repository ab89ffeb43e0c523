"""A batch, and its place in the logical run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..backend import Array, checksum, to_device, to_host
from ..errors import UserError, check_whole
from ..loss_denominators import IGNORE
from ..operands import as_ids
from ..sharding import shard_of
from .sample_checks import as_samples

if TYPE_CHECKING:
    from ..kv_cache import KeyValueCache

__all__ = ["IGNORE", "Batch", "Where"]


@dataclass(frozen=True)
class Where:
    """Which part of which global batch this is.

    Positions, the causal mask, dropout and the denominator of the loss are computed from it, never from an array's
    shape, so they mean the same whatever part of the batch a rank or micro-batch holds.
    """

    seed: int
    number: int  # of the global batch, counted from 0
    B: int  # samples in the global batch
    T: int  # positions in a whole sample (1 if samples are not sequences)
    samples: slice  # held here, within 0..B
    time: slice  # held here, within 0..T: what attention sees
    training: bool = True  # False: no dropout
    counted: int | None = None  # labels of the global batch that are not IGNORE; None: all of them
    shard_of: slice | None = None  # positions on the residual path under sequence parallel; None: all of `time`

    @property
    def residual(self) -> slice:
        """The positions, within 0..T, that norms, dropout and the residual path receive on this rank."""
        return self.time if self.shard_of is None else self.shard_of

    @property
    def count(self) -> int:
        """Number of predictions in the global batch: the denominator of its summed loss."""
        return self.B * self.T if self.counted is None else self.counted


@dataclass(frozen=True)
class Batch:
    """inputs (B, T) token ids, or (B, features); labels (B, T) or (B), or None.

    Labels equal to IGNORE count neither in the loss nor in its denominator, `where.counted`. A whole global batch
    counts its own labels; a part cannot. Raise UserError if a part has ignored labels but no `counted`, if every label
    of the global batch is ignored, and if the arrays do not match `where`.
    """

    inputs: Array
    labels: Array | None
    where: Where
    rows: Array | None = None  # row of the data that each sample comes from, for messages
    cache: "KeyValueCache | None" = None  # of the positions before this batch, when text is generated

    def __post_init__(self) -> None:
        if self.labels is not None and not hasattr(self.labels, "dtype"):
            object.__setattr__(self, "labels", to_device(as_ids("labels", self.labels)))  # a list
        if not hasattr(self.inputs, "dtype"):
            object.__setattr__(self, "inputs", to_device(as_samples("inputs", self.inputs)))
        self._check_sizes()
        if self.where.counted is None and (ignored := count_ignored(self.labels)):
            where, size = self.where, 0 if self.labels is None else self.labels.size
            if (where.samples, where.time) != (slice(0, where.B), slice(0, where.T)):
                raise UserError(
                    f"this part of a batch ignores {ignored} of its {size} labels, but where.counted is None: "
                    "give the number of labels of the whole global batch that are not IGNORE"
                )
            object.__setattr__(self, "where", replace(where, counted=size - ignored))
        if self.where.counted is not None:
            check_whole("where.counted", self.where.counted, most=2**127)
        if self.where.counted is not None and self.where.counted < 1:
            raise UserError(
                f"where.counted is {self.where.counted} in batch {self.where.number}: all labels of the global batch "
                f"are IGNORE ({IGNORE}), so the loss has no denominator; give at least one label"
            )

    def _check_sizes(self) -> None:
        """Raise UserError unless the arrays have the lengths in `where`, since the loss is divided by them."""
        where, labels, n = self.where, self.labels, len(self.inputs)
        samples, time = where.samples, where.time
        length = time.stop - time.start  # positions held here
        fits = samples.stop - samples.start == n and samples.start >= 0
        fits &= 0 <= time.start <= time.stop <= where.T
        if labels is not None:
            fits &= len(labels) == n and (labels.ndim < 2 or length <= labels.shape[1] <= where.T)
        if self.inputs.dtype.kind in "iu" and (labels is None or labels.ndim > 1):  # one id per position
            fits &= self.inputs.ndim > 1 and length <= self.inputs.shape[1] <= where.T
        if not fits:
            given = "none" if labels is None else labels.shape
            raise UserError(
                f"the inputs have shape {self.inputs.shape}, the labels {given}, but `where` says samples "
                f"{samples.start}:{samples.stop} of {where.B}, time {time.start}:{time.stop} of {where.T}.\n"
                "Give one row per sample and, in ids and their labels, one column per position"
            )

    def part(self, i: int, n: int) -> "Batch":
        """Return the i-th of n consecutive runs of samples (ranks, then micro-batches), perhaps uneven or empty.

        Raise UserError if i or n is not a whole number, ValueError if there is no such part.
        """
        check_whole("n", n, 1)
        check_whole("i", i)
        part = shard_of(len(self.inputs), n, i)
        first = self.where.samples.start
        where = replace(self.where, samples=slice(first + part.start, first + part.stop))
        labels, rows = (None if x is None else x[part] for x in (self.labels, self.rows))
        return Batch(self.inputs[part], labels, where, rows)

    def split(self, n: int) -> list["Batch"]:
        """Return all n parts in order: the micro-batches."""
        check_whole("n", n, 1)
        return [self.part(i, n) for i in range(n)]

    def mislabelled(self, V: int) -> UserError:
        """Return the error for labels outside the V classes, naming the first one and where it is.

        Raise TypeError if the labels are not whole numbers.
        """
        labels = to_host(as_ids("labels", self.labels))
        wrong = np.argwhere(((labels < 0) & (labels != IGNORE)) | (labels >= V))[0]
        where = f"sample {self.where.samples.start + int(wrong[0])} of batch {self.where.number}"
        if self.rows is not None:  # for text, the start of the window; its labels are shifted by one
            row = int(self.rows[wrong[0]]) + (1 + int(wrong[1]) if labels.ndim > 1 else 0)
            where += f" ({'position' if labels.ndim > 1 else 'row'} {row} of the data)"
        return UserError(
            f"a label of {where} is {labels[tuple(wrong)]}; there are {V} classes, counted from 0, "
            f"and {IGNORE} marks a label to ignore: correct the labels, or give the model more classes"
        )


def count_ignored(labels: Array | None) -> int:
    """Return how many labels are IGNORE. If none is, this only computes the minimum."""
    if labels is None or labels.dtype.kind != "i" or not labels.size or int(labels.min()) > IGNORE:
        return 0
    return int((labels == IGNORE).sum())


def checksum_of(batch: Batch, before: int = 0) -> int:
    """Return a checksum of the inputs and labels, continuing from `before`."""
    for array in (batch.inputs, batch.labels):
        before = before if array is None else checksum(array, before)
    return before
