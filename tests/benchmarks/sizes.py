"""What is measured: three sizes of GPT with their data, and the rows of the table.

This module imports neither minitrain nor PyTorch, so that a process measuring one contains nothing of the other.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

LR = 1e-4  # both sides; small, so that many steps on one batch change nothing that takes time


@dataclass(frozen=True)
class Size:
    """A GPT, the batch of one rank, and the target for its step: our time as a multiple of PyTorch's."""

    name: str
    width: int
    heads: int
    layers: int
    T: int
    B: int
    V: int
    goal: float

    def ids(self, ranks: int = 1) -> np.ndarray:
        """Return random tokens (ranks x B, T + 1): inputs and labels are slices of them."""
        return np.random.default_rng(0).integers(0, self.V, (ranks * self.B, self.T + 1))


SIZES = {
    size.name: size
    for size in (
        Size("20M", width=512, heads=8, layers=6, T=128, B=4, V=1024, goal=1.0),
        Size("3.4M", width=256, heads=4, layers=4, T=128, B=8, V=512, goal=1.0),
        Size("0.5M", width=128, heads=4, layers=2, T=64, B=16, V=256, goal=1.0),
        Size("tiny", width=12, heads=3, layers=2, T=5, B=2, V=11, goal=1.0),  # for the tests
    )
}


class Row(TypedDict):
    """One line of the table and of build/bench.json. goal: the ratio to stay below, if there is one."""

    name: str
    ours: float
    theirs: float
    ratio: float
    goal: float | None
    unit: str


def row(name: str, ours: float, theirs: float, unit: str, goal: float | None = None) -> Row:
    return Row(name=name, ours=ours, theirs=theirs, ratio=ours / theirs, goal=goal, unit=unit)
