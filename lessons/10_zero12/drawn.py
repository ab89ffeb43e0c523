"""Drawn arguments of this lesson's exercises, and functions that use them on one rank."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.sharding import shard_of

from .lesson import STAGES

PARTS = st.lists(st.integers(1, 7), min_size=1, max_size=5).flatmap(
    lambda sizes: st.integers(1, 5).flatmap(
        lambda ranks: st.tuples(st.just(sizes), st.just(ranks), st.integers(0, ranks - 1))
    )
)

COUNT, N, STAGE = st.sampled_from((1, 7, 1000, 7.5e9)), st.sampled_from((1, 2, 3, 4, 5, 64)), st.sampled_from(STAGES)
RANKS = st.tuples(COUNT, N, STAGE)
EACH = st.tuples(
    COUNT, N, STAGE, st.permutations((2, 4, 12)).map(tuple) | st.sampled_from(((4, 4, 8), (2.0, 4.0, 0.0)))
)


class Steps(NamedTuple):
    """Steps of zero1_step on one bucket. In each, rank r has this gradient, times number r of `times`."""

    w: list[float]
    gradients: list[list[float]]
    times: tuple[int, ...]
    dtype: str

    def __repr__(self) -> str:
        several = " and then ".join(f"{self.times}[rank] * {g}" for g in self.gradients)
        return f"zero1_step with w = {self.w}, g = {several} in {self.dtype}"


SPECIAL_STEPS = st.sampled_from(
    (
        Steps([1.0], [[1.0]], (1, 2, 3, 4), "float32"),
        Steps([1.0, 2.0, 3.0], [[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], (1, 2, 3, 4), "float64"),
        Steps([1.0, 2.0, 3.0, 4.0, 5.0], [[1.0, 2.0, 3.0, 4.0, 5.0]], (1, 0, 0, 2), "float32"),
        Steps([1.0, 2.0], [[np.nan, -np.inf]], (1, 1, 1, 1), "float64"),
        Steps([4098.0], [[4098.0]], (1, 1, 1, 1), "float32"),
    )
)
NUMBERS = st.sampled_from((0.0, 1.0, -2.0, 0.5, 4097.0))
STEPS_TWICE = st.integers(1, 5).flatmap(
    lambda n: st.builds(
        Steps,
        st.lists(NUMBERS, min_size=n, max_size=n),
        st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=2, max_size=2),
        st.tuples(*[st.integers(-2, 3)] * 4),
        st.sampled_from(("float32", "float64")),
    )
)


def stepped(zero1_step: Callable, comm: Communicator, given: Steps) -> dict[str, Any]:
    """Return w after the steps, and how many numbers the optimizer, which sums all gradients so far, remembers."""
    ring, w, state = RingCommunicator(comm), np.array(given.w, given.dtype), []

    def update(piece: Array, g: Array) -> None:
        if not state:
            state.append(np.zeros_like(piece))
        if not len(piece) == len(g) == len(state[0]):
            told = f"{len(piece)} parameters and {len(g)} gradients, and it remembers {len(state[0])}"
            raise ValueError(f"update was called with {told}")
        if piece.dtype != w.dtype:
            raise ValueError(f"update was called with parameters in {piece.dtype}; those of w are in {w.dtype}")
        state[0] += g
        piece -= state[0] / 2

    for g in given.gradients:
        zero1_step(w, np.array(g, given.dtype) * np.array(given.times[comm.rank], given.dtype), ring, update)
    return {"w": w.tolist(), "numbers that its optimizer remembers": sum(map(len, state))}


class Clip(NamedTuple):
    """Arguments of clip_shares: the whole gradient, bucket by bucket, of which each rank has its shards."""

    buckets: list[list[float]]
    limit: float
    dtype: str

    def __repr__(self) -> str:
        return f"gradient {' and '.join(map(str, self.buckets))} in {self.dtype}, limit {self.limit:g},"


SPECIAL_CLIPS = st.sampled_from(
    (
        Clip([[0.0]], 1.0, "float64"),
        Clip([[3.0, 4.0], [0.0]], 4.999, "float64"),
        Clip([[3.0], [4.0]], 5.0, "float32"),
        Clip([[0.1, 0.2, 0.3, 0.7]], 0.5, "float64"),  # another order of additions gives another last digit
    )
)
CLIPS = st.builds(
    Clip,
    st.lists(st.lists(st.sampled_from((0.0, 1.0, -2.0, 0.3, 0.7)), min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from((0.5, 1.0, 2.0, 10.0)),
    st.sampled_from(("float32", "float64")),
)


def clipped(clip_shares: Callable, comm: Communicator, given: Clip) -> dict[str, Any]:
    """Return what clip_shares returns, what it leaves in this rank's shares and in the list of them."""
    ring = RingCommunicator(comm)
    shards = [np.array(g, given.dtype)[shard_of(len(g), comm.size, comm.rank)] for g in given.buckets]
    listed = list(shards)
    norm = clip_shares(listed, ring, given.limit)
    return {
        "norm": norm,
        "distinct norms on the ranks": len(set(comm.gather_objects(norm))),
        "shards": [shard.tolist() for shard in shards],
        "shards left in its list": sum(a is b for a, b in zip(listed, shards, strict=False)),
    }
