"""Comparable times: measure several things in turn, so that other load on the machine affects all alike.

Use the median, not the mean, since other processes can only make a run longer. Disable Python's garbage collector,
since it would run during one measurement for the garbage of all.
"""

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Protocol

Times = list[float]


class Side(Protocol):
    """A model in training, ours or theirs. One step is these three methods."""

    def forward(self) -> None: ...

    def backward(self) -> None: ...

    def update(self) -> None: ...

    def loss(self) -> float: ...


PARTS = ("step", "forward", "backward", "optimizer")


def nothing() -> None:
    """Do nothing."""


def step(side: Side, wait: Callable[[], None] = nothing) -> Times:
    """Run one training step; return the seconds of PARTS.

    wait: called before each look at the clock; it waits for a device, which works behind Python's back.
    """
    wait()
    start = perf_counter()
    side.forward()
    wait()
    forward = perf_counter()
    side.backward()
    wait()
    backward = perf_counter()
    side.update()
    wait()
    end = perf_counter()
    return [end - start, forward - start, backward - forward, end - backward]


def agree(ours: float, *theirs: float) -> None:
    """Raise RuntimeError unless the losses agree to 1e-4: otherwise different computations would be timed."""
    for other in theirs:
        if not abs(ours - other) <= 1e-4:
            raise RuntimeError(f"our loss is {ours:.6f}, PyTorch's {other:.6f}: these are not the same model")


def medians(measures: Mapping[str, Callable[[], Times]], rounds: int) -> dict[str, Times]:
    """Call the measures in turn, `rounds` times; return the median of each returned time."""
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
