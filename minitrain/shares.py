"""Dividing n things over parts, also when the division leaves a remainder.

Samples over ranks, samples over micro-batches, elements of a buffer over ranks: always this one rule, so that
two places that divide the same thing agree on the borders.
"""

from collections.abc import Sequence

Cuts = Sequence[slice]  # for each rank a run of an array's first axis; together, in order, they cover it


def share(n: int, parts: int, i: int) -> slice:
    """The i-th of `parts` consecutive runs that together cover 0 to n - 1, as even as can be.

    The first n % parts runs are one longer than the rest; with more parts than things the last runs are empty.

    >>> [share(8, 3, i) for i in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    if not 0 <= i < parts:
        raise ValueError(f"part {i} does not exist: there are {parts} parts, counted from 0")
    base, longer = divmod(n, parts)
    start = i * base + min(i, longer)
    return slice(start, start + base + (i < longer))


def shares(n: int, parts: int) -> list[slice]:
    """The runs of all parts: see `share`."""
    return [share(n, parts, i) for i in range(parts)]


def lengths(cuts: Cuts) -> list[int]:
    """How long they are."""
    return [cut.stop - cut.start for cut in cuts]
