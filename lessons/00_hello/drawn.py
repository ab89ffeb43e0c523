"""Drawn arguments for this lesson's checks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.lessons.unbuffered import Unbuffered


@dataclass(frozen=True)
class Texts:
    """A text for each of at most four ranks, and whether `file` is given."""

    texts: tuple[str, ...]
    to_file: bool

    def __repr__(self) -> str:
        return f"the texts {', '.join(map(repr, self.texts))} {'to file' if self.to_file else 'with no file given'}"


@dataclass(frozen=True)
class Arrays:
    """An array for each rank: 10 r + 1, 10 r + 2, ... on rank r, only zeros on the rank `zeros`."""

    shape: tuple[int, ...]
    dtype: str
    zeros: int | None

    def __repr__(self) -> str:
        zeros = "" if self.zeros is None else f" (all zeros on rank {self.zeros})"
        empty, shape = (
            "" if np.prod(self.shape) else "empty ",
            f"of shape {self.shape}" if self.shape else "without axes",
        )
        return f"swap of {empty}{self.dtype} arrays {shape}{zeros}"

    def array(self, rank: int) -> np.ndarray:
        x = np.arange(np.prod(self.shape)) + 10 * rank + 1
        return (x * (rank != self.zeros)).astype(self.dtype).reshape(self.shape)


TEXT = st.sampled_from(("", "a", "b", "a ", " a", "a\n", "two\nlines", "%s {}", "\u00e9"))
TEXTS = st.builds(Texts, st.tuples(TEXT, TEXT, TEXT, TEXT), st.booleans())
ARRAYS = st.builds(
    Arrays,
    st.sampled_from(((3,), (1,), (0,), (2, 3), (2, 1, 2))),
    st.sampled_from(("float64", "float32", "float16", "int64", "uint8")),
    st.sampled_from((None, 0, 1, 2)),
)


def swapped_twice(swap: Callable[..., Any], world: Communicator, given: Arrays) -> dict[str, Any]:
    """Return what two calls give, and the first array again after the second call."""
    comm, x, y = Unbuffered(world), given.array(world.rank), given.array(world.rank + world.size)
    first = swap(comm, x)
    at_first = np.copy(first) if isinstance(first, np.ndarray) else first
    second = swap(comm, y)
    return {
        "returned": at_first,
        "returned from a second call": second,
        "in what the first call returned, after the second": first,
        "in x afterwards": x,
        "left sends without waiting for them": comm.open,
    }
