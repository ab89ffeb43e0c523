"""Drawn arguments for this lesson's checks, and what a rank does with them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.lessons.unbuffered import Unbuffered
from minitrain.sharding import Shards, even_shards

from .lesson import TAG

SIZES = (2, 3, 4, 5, 1)


@dataclass(frozen=True)
class Gather:
    """An array for each rank: 1, -2, 3, -1, 2, -3, ..., which starts elsewhere on each rank, or only zeros.

    whole: the rank that all of x belongs to; None: even shards. zeros: the rank that has only zeros.
    """

    n: int
    dtype: str
    whole: int | None = None
    zeros: int | None = None

    def __repr__(self) -> str:
        owner = {None: "", 0: " (all in the shard of rank 0)", -1: " (all in the shard of the last rank)"}[self.whole]
        zeros = "" if self.zeros is None else f" (all zeros on rank {self.zeros})"
        return f"{self.n} number{'s' * (self.n != 1)} of {self.dtype}{owner}{zeros}"

    def array(self, rank: int) -> np.ndarray:
        i = np.arange(self.n)
        x = (1 + (i + rank) % 3) * (-1) ** i
        return (x * (rank != self.zeros)).astype(self.dtype)

    def shards(self, size: int) -> Shards:
        if self.whole is None:
            return even_shards(self.n, size)
        owner = self.whole % size
        return [slice(self.n if rank > owner else 0, self.n if rank >= owner else 0) for rank in range(size)]

    def named(self, size: int) -> dict[str, Shards]:
        """Return the argument shards; empty if it is left out."""
        return {} if self.whole is None else {"shards": self.shards(size)}

    def run(self, all_gather: Callable, world: Communicator) -> dict[str, Any]:
        """Run as a rank. NaN marks what is to be filled."""
        comm, x = Unbuffered(world), self.array(world.rank)
        if x.dtype.kind == "f":
            mine = self.shards(world.size)[world.rank]
            x[: mine.start] = x[mine.stop :] = np.nan
        all_gather(comm, x, TAG, **self.named(world.size))
        return {"in x": x, **comm.habits()}


@dataclass(frozen=True, repr=False)
class Sum(Gather):
    """A sum over ranks, or a maximum or minimum."""

    add: np.ufunc = np.add

    def __repr__(self) -> str:
        return f"numpy.{self.add.__name__} of {super().__repr__()}"

    def run(self, reduce_scatter: Callable, world: Communicator) -> dict[str, Any]:
        """Run as a rank."""
        comm, x = Unbuffered(world), self.array(world.rank)
        returned = reduce_scatter(comm, x, TAG, self.add, **self.named(world.size))
        mine = x[self.shards(world.size)[world.rank]]
        return {"returned": returned, "in its shard of x": mine, **comm.habits()}


@dataclass(frozen=True, repr=False)
class Broadcast(Gather):
    """An array for each rank; the root's is sent to all."""

    root: int = 0

    def __repr__(self) -> str:
        return f"root {self.root} % N, {super().__repr__()}"

    def run(self, broadcast: Callable, world: Communicator) -> dict[str, Any]:
        """Run as a rank."""
        comm, x = Unbuffered(world), self.array(world.rank)
        broadcast(comm, x, self.root % world.size, TAG)
        waits = any(before > i for i, (_, before) in enumerate(comm.sends, 1))
        return {"in x": x, **comm.habits(), "received a chunk before it has sent the one before": waits}


NUMBERS = st.sampled_from((1, 2, 5, 6, 7, 0))
DTYPES = st.sampled_from(("float64", "float32", "float16", "int64"))
WHOLE, ZEROS = st.sampled_from((None, 0, -1)), st.sampled_from((None, 0, 1, 2))
ADDS = st.sampled_from((np.add, np.maximum, np.minimum))
GATHERS = st.builds(Gather, NUMBERS, DTYPES, WHOLE, ZEROS)
SUMS = st.builds(Sum, NUMBERS, DTYPES, WHOLE, ZEROS, ADDS)
BROADCASTS = st.builds(Broadcast, NUMBERS, DTYPES, st.none(), ZEROS, st.integers(0, 4))
RANKS = st.sampled_from((2, 3, 4, 5, 8, 9, 64, 65, 1000)) | st.integers(2, 4096)
ALPHAS, BETAS = st.sampled_from((1e-9, 1e-6, 1e-5, 1.0)), st.sampled_from((1e-12, 1e-10, 1e-3, 1.0, 10.0))


def on_a_rank(function: Callable, world: Communicator, given: Gather) -> dict[str, Any]:
    """Run the student's function on one rank."""
    return given.run(function, world)
