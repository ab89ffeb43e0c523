"""A batch, and where it lies in the logical run."""

from dataclasses import dataclass, replace

import numpy as np

from ..backend import Array, as_ids, to_device, to_host
from ..errors import UserError, check_whole
from ..fused import IGNORE
from ..shares import share
from .kinds import as_samples

__all__ = ["IGNORE", "Batch", "Where"]


@dataclass(frozen=True)
class Where:
    """Which part of which global batch this is.

    Positions, the causal mask, dropout and the denominator of the loss read it, never an array's shape: so they mean
    the same whatever part of the batch a rank or a micro-batch holds.
    """

    seed: int
    number: int  # of the global batch, from 0
    B: int  # samples of the global batch
    T: int  # positions of a whole sample (1 when samples are not sequences)
    samples: slice  # held here, of 0..B
    time: slice  # held here, of 0..T: what attention sees
    training: bool = True  # dropout is off otherwise
    counted: int | None = None  # labels of the global batch that are not IGNORE; None: all of them
    share: slice | None = None  # of the time, on the residual path under sequence parallel; None: all of `time`

    @property
    def residual(self) -> slice:
        """The positions, of 0..T, of what norms, dropout and the residual path are given here."""
        return self.time if self.share is None else self.share

    @property
    def count(self) -> int:
        """Predictions of the global batch: what its summed loss is divided by."""
        return self.B * self.T if self.counted is None else self.counted


@dataclass(frozen=True)
class Batch:
    """inputs (B, T) of token ids, or (B, features); labels (B, T) or (B), or None when there is nothing to compare.

    Labels that are IGNORE count neither in the loss nor in its denominator, which is `where.counted`. A whole global
    batch counts its labels by itself; a part cannot know it. Raises UserError for a part with such labels and no
    `counted`, and for a global batch in which nothing counts.
    """

    inputs: Array
    labels: Array | None
    where: Where
    rows: Array | None = None  # of the data: where its samples come from, for messages

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
                    f"this part of a batch ignores {ignored} of its {size} labels, and where.counted is None: "
                    "give the number of labels of the whole global batch that are not IGNORE"
                )
            object.__setattr__(self, "where", replace(where, counted=size - ignored))
        if self.where.counted is not None:
            check_whole("where.counted", self.where.counted, most=2**127)
        if self.where.counted is not None and self.where.counted < 1:
            raise UserError(
                f"where.counted is {self.where.counted} in batch {self.where.number}: all labels of the global batch "
                f"are IGNORE ({IGNORE}), and the loss has no denominator; give at least one label"
            )

    def _check_sizes(self) -> None:
        """Raise UserError unless the arrays are as long as `where` says, by which the loss is divided."""
        where, labels, n = self.where, self.labels, len(self.inputs)
        samples, time = where.samples, where.time
        length = time.stop - time.start  # of the share of a window's time that is held here
        fits = samples.stop - samples.start == n and samples.start >= 0
        fits &= 0 <= time.start <= time.stop <= where.T
        if labels is not None:
            fits &= len(labels) == n and (labels.ndim < 2 or length <= labels.shape[1] <= where.T)
        if self.inputs.dtype.kind in "iu" and (labels is None or labels.ndim > 1):  # an id for each position
            fits &= self.inputs.ndim > 1 and length <= self.inputs.shape[1] <= where.T
        if not fits:
            given = "none" if labels is None else labels.shape
            raise UserError(
                f"the inputs have shape {self.inputs.shape}, the labels {given}, and `where` says samples "
                f"{samples.start}:{samples.stop} of {where.B}, time {time.start}:{time.stop} of {where.T}.\n"
                "There must be a row for each of these samples, and in ids and their labels a column for each time"
            )

    def part(self, i: int, n: int) -> "Batch":
        """The i-th of n runs of samples (of ranks, then of micro-batches): uneven if n does not divide, or empty.

        Raises UserError for what is no whole number, ValueError for a part that does not exist.
        """
        check_whole("n", n, 1)
        check_whole("i", i)
        cut = share(len(self.inputs), n, i)
        first = self.where.samples.start
        where = replace(self.where, samples=slice(first + cut.start, first + cut.stop))
        labels, rows = (None if x is None else x[cut] for x in (self.labels, self.rows))
        return Batch(self.inputs[cut], labels, where, rows)

    def split(self, n: int) -> list["Batch"]:
        """All n parts, one behind the other: the micro-batches."""
        check_whole("n", n, 1)
        return [self.part(i, n) for i in range(n)]

    def mislabelled(self, V: int) -> UserError:
        """The error for labels that V classes do not have: the first of them, and where it is.

        Raises TypeError for labels that are no whole numbers at all.
        """
        labels = to_host(as_ids("labels", self.labels))
        wrong = np.argwhere(((labels < 0) & (labels != IGNORE)) | (labels >= V))[0]
        where = f"sample {self.where.samples.start + int(wrong[0])} of batch {self.where.number}"
        if self.rows is not None:  # of a text, where its window begins: the labels are one further
            row = int(self.rows[wrong[0]]) + (1 + int(wrong[1]) if labels.ndim > 1 else 0)
            where += f" ({'position' if labels.ndim > 1 else 'row'} {row} of the data)"
        return UserError(
            f"a label of {where} is {labels[tuple(wrong)]}; there are {V} classes, counted from 0, "
            f"and {IGNORE} for a label that is to be ignored: mend the labels, or give the model more classes"
        )


def count_ignored(labels: Array | None) -> int:
    """How many of the labels are IGNORE. One look at the least of them where none is."""
    if labels is None or labels.dtype.kind != "i" or not labels.size or int(labels.min()) > IGNORE:
        return 0
    return int((labels == IGNORE).sum())
