"""A batch, and where it lies in the logical run."""

from dataclasses import dataclass, replace

from ..backend import Array
from ..errors import check_whole
from ..shares import share


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
    time: slice  # held here, of 0..T
    training: bool = True  # dropout is off otherwise

    @property
    def count(self) -> int:
        """Predictions of the global batch: what its summed loss is divided by."""
        return self.B * self.T


@dataclass(frozen=True)
class Batch:
    """inputs (B, T) of token ids, or (B, features); labels (B, T) or (B), or None when there is nothing to compare."""

    inputs: Array
    labels: Array | None
    where: Where
    rows: Array | None = None  # of the data: where its samples come from, for messages

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
