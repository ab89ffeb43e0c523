"""What is measured: sizes of GPT with their data, and the rows of the table.

This module imports neither minitrain nor PyTorch, so that a process measuring one contains nothing of the other.
"""

from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

LR = 1e-4  # both sides; small, so that many steps on one batch change nothing that takes time


@dataclass(frozen=True)
class Size:
    """A GPT, and the batch of one rank."""

    name: str
    width: int
    heads: int
    layers: int
    T: int
    B: int
    V: int

    def ids(self, ranks: int = 1) -> np.ndarray:
        """Return random tokens (ranks x B, T + 1): inputs and labels are slices of them."""
        return np.random.default_rng(0).integers(0, self.V, (ranks * self.B, self.T + 1))

    def values(self, path: str) -> np.ndarray:
        """Return initial values of our parameter of this path, float32: normal, but soon made even for 350 M.

        A million numbers are drawn and repeated; a million and three is prime, so that no two rows are equal.
        """
        D, (layer, kind) = self.width, path.split(".")[-2:]
        shapes = {"tokens": (self.V, D), "positions": (self.T, D), "qkv": (D, 3 * D), "up": (D, 4 * D)}
        shape = {**shapes, "proj": (D, D), "down": (4 * D, D)}.get(layer, (D, D))
        if kind == "bias":
            return np.zeros(shape[1], np.float32)
        if layer.startswith("norm"):
            return np.ones(D, np.float32)
        std = 0.02 / (2 * self.layers) ** 0.5 if layer in ("proj", "down") else 0.02
        draw = np.random.default_rng([*path.encode()])
        few = draw.standard_normal(min(shape[0] * shape[1], 1_000_003), np.float32) * np.float32(std)
        return np.resize(few, shape)


class Values(Protocol):
    """Our parameters' values by path."""

    def __getitem__(self, path: str) -> np.ndarray: ...


class ValuesOf(dict[str, np.ndarray]):
    """The values that a size makes, each once."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def __missing__(self, path: str) -> np.ndarray:
        self[path] = self.size.values(path)
        return self[path]


SIZES = {
    size.name: size
    for size in (
        Size("20M", width=512, heads=8, layers=6, T=128, B=4, V=1024),
        Size("3.4M", width=256, heads=4, layers=4, T=128, B=8, V=512),
        Size("0.5M", width=128, heads=4, layers=2, T=64, B=16, V=256),
        Size("tiny", width=12, heads=3, layers=2, T=5, B=2, V=11),  # for the tests
    )
}

# On a GPU (make gpu). 50304 tokens are those of GPT-2, up to a multiple of 128.
DEVICE_SIZES = {
    size.name: size
    for size in (
        Size("20M", width=512, heads=8, layers=6, T=512, B=8, V=1024),
        Size("120M", width=768, heads=12, layers=12, T=512, B=8, V=50304),
        Size("350M", width=1024, heads=16, layers=24, T=512, B=8, V=50304),
        SIZES["tiny"],
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
