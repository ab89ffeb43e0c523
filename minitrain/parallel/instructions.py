"""The instructions of a pipeline, and where on the ranks its stages are: what schedules are made of.

The only dependencies between ranks:

    F of stage s         after F of stage s - 1                          (receives its activations)
    B or I of stage s    after B or I of stage s + 1, and its own F      (receives its output's gradient)
    W of stage s         after its own I                                 (no message)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError


@dataclass(frozen=True)
class Do:
    """One instruction: F forward, B backward, or its halves I (input gradient) and W (weight gradients)."""

    kind: str
    micro: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.micro}" + (f" of chunk {self.chunk}" if self.chunk else "")


Shape = Literal["looped", "V", "two-way"]
Lists = Sequence[Sequence[Do]]  # the instructions of each rank
Schedule = Callable[[int, int, int, int], list[Do]]  # (rank, stages, micro-batches, chunks) -> the rank's instructions


@dataclass(frozen=True)
class Layout:
    """Which stage of the model each chunk of each rank is, on p ranks with v chunks each.

                    looped           V-shaped         two-way
        rank        0 1 2 3          0 1 2 3          0 1 2 3
        chunk 0     0 1 2 3          0 1 2 3          0 1 2 3
        chunk 1     4 5 6 7          7 6 5 4          3 2 1 0

    Two-way, every stage exists twice. Half of the micro-batches pass through the first chunks, from rank 0 to rank p-1,
    the other half through the second ones, from rank p-1 to rank 0. Otherwise, each passes through all chunks.
    """

    p: int
    v: int = 1
    shape: Shape = "looped"

    @property
    def stages(self) -> int:
        """The number of stages."""
        return self.p if self.shape == "two-way" else self.p * self.v

    @property
    def replicas(self) -> int:
        """How often each stage exists."""
        return self.p * self.v // self.stages

    def stage(self, r: int, chunk: int) -> int:
        """Return the stage of this chunk of rank r."""
        back = self.shape != "looped" and chunk % 2
        return (0 if self.shape == "two-way" else chunk * self.p) + (self.p - 1 - r if back else r)

    def places(self, stage: int) -> list[tuple[int, int]]:
        """Return the (rank, chunk) pairs of a stage: one, or two if it exists twice."""
        if self.shape == "two-way":
            return [(stage, 0), (self.p - 1 - stage, 1)]
        chunk, r = divmod(stage, self.p)
        return [(self.p - 1 - r if self.shape == "V" and chunk % 2 else r, chunk)]

    def next(self, r: int, chunk: int, step: int) -> tuple[int, int]:
        """Return the (rank, chunk) of the stage after this one (step 1), or of the one before it (step -1)."""
        there = self.places(self.stage(r, chunk) + step)
        return there[chunk] if self.shape == "two-way" else there[0]

    def chunks_of(self, micro: int, m: int) -> range:
        """Return the chunks of each rank through which one of m micro-batches passes."""
        way = int(micro >= m // 2)
        return range(way, way + 1) if self.shape == "two-way" else range(self.v)

    def ended_with(self, chunk: int) -> range:
        """Return the chunks that have no further work on a micro-batch after its backward through this one."""
        return range(self.v) if self.shape == "two-way" else range(chunk, chunk + 1)


def source(do: Do, r: int, layout: Layout) -> tuple[int, Do] | None:
    """Return the (rank, instruction) whose output rank r needs for this one, or None if it needs no message.

    A B is returned as the I it contains.
    """
    return hop(do, r, layout, -1)


def target(do: Do, r: int, layout: Layout) -> tuple[int, Do] | None:
    """Return the (rank, instruction) that needs this one's output on rank r, or None if there is none."""
    return hop(do, r, layout, 1)


def hop(do: Do, r: int, layout: Layout, way: int) -> tuple[int, Do] | None:
    """Return the neighbor of `do` one step along (1) or against (-1) its data flow: up for F, down for B and I."""
    stage = layout.stage(r, do.chunk) + (way if do.kind == "F" else -way)
    if do.kind == "W" or not 0 <= stage < layout.stages:
        return None
    rank, chunk = layout.next(r, do.chunk, way if do.kind == "F" else -way)
    return rank, Do("F" if do.kind == "F" else "I", do.micro, chunk)


def one_chunk(name: str, v: int) -> None:
    """Raise UserError unless v is 1."""
    if v != 1:
        raise UserError(f"{v} chunks per rank: the {name} schedule has 1; interleaved, zb-v and dualpipe have more")
