"""Times that can be compared: several things measured in turn, so that whatever else the machine does hits all alike.

The median is taken, not the mean, because other processes can only make a run longer; and Python's garbage collector is
off, because it would come at some run or other for the rubbish of all.
"""

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Protocol

Times = list[float]


class Side(Protocol):
    """A model in training, ours or theirs: one step is these three."""

    def forward(self) -> None: ...

    def backward(self) -> None: ...

    def update(self) -> None: ...

    def loss(self) -> float: ...


PARTS = ("step", "forward", "backward", "optimizer")


def step(side: Side) -> Times:
    """One training step: the seconds of PARTS."""
    start = perf_counter()
    side.forward()
    forward = perf_counter()
    side.backward()
    backward = perf_counter()
    side.update()
    end = perf_counter()
    return [end - start, forward - start, backward - forward, end - backward]


def agree(ours: float, *theirs: float) -> None:
    """Raises RuntimeError unless the losses are equal to 1e-4: otherwise different things would be timed."""
    for other in theirs:
        if not abs(ours - other) <= 1e-4:
            raise RuntimeError(f"our loss is {ours:.6f}, PyTorch's {other:.6f}: these are not the same model")


def medians(measures: Mapping[str, Callable[[], Times]], rounds: int) -> dict[str, Times]:
    """Calls one after the other, `rounds` times over; the median of each of the times that each one returns."""
    found: dict[str, list[Times]] = {name: [] for name in measures}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, measure in measures.items():
                found[name].append(measure())
    finally:
        gc.enable()
    return {name: [median(times) for times in zip(*runs, strict=True)] for name, runs in found.items()}
