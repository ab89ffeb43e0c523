"""Strategies by name, for tests over several: "naive", "bucketed", "overlap", "zero1", "zero2", "zero3"."""

from typing import Any

from minitrain.parallel.strategy import Strategy


def named(name: str, **fields: Any) -> Strategy:
    """Return the named strategy with these other fields."""
    if name.startswith("zero"):
        return Strategy(zero=int(name.removeprefix("zero")), **fields)
    return Strategy(reduce=name, **fields)  # type: ignore[arg-type]
