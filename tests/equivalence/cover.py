"""Which combinations are run: all of them in the full matrix, otherwise a cover of all pairs of settings."""

import itertools
import random
from dataclasses import replace
from typing import Any

from tests.equivalence.harness import STRATEGIES, Case

RANKS = (2, 3, 4)
AXES: dict[str, tuple] = {
    "ranks": RANKS,
    "strategy": tuple(STRATEGIES),
    "comm": ("mpi", "ring"),
    "optimizer": ("sgd", "adam"),
    "accumulate": (1, 3),
    "clip": (None, 0.5),
    "recompute": (0, 1, 2),
}


MODEL: dict[str, tuple] = {  # with the model divided as well
    **AXES,
    "strategy": ("dp-bucketed", "zero1", "zero2", "zero3"),
    "recompute": (0, 2),
    "layout": ("tp", "sp"),
}


def pairwise(axes: dict[str, tuple], seed: int = 0) -> list[dict[str, Any]]:
    """Combinations in which every pair of settings of two axes occurs; greedy, the same for the same seed."""
    names = list(axes)
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())]
    random.Random(seed).shuffle(everything)
    missing = set().union(*map(_pairs, everything))
    chosen = []
    while missing:
        best = max(everything, key=lambda combination: len(_pairs(combination) & missing))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def cases(full: bool) -> list[tuple[int, Case]]:
    """(ranks, case) of the matrix, with the corner cases that have names of their own."""
    rows = []
    for axes in (AXES, MODEL):
        everything = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        rows += [(s.pop("ranks"), Case(**s)) for s in (everything if full else pairwise(axes))]
    both = [(n, replace(case, tp=2) if (n, case.layout) != (4, "dp") and n == 4 else case) for n, case in rows]
    return both + [
        (3, Case(optimizer="adam 1e-8")),
        (3, Case(dtype="float32", comm="ring")),
        (3, Case(tied=False, accumulate=3, comm="ring")),
        (3, Case("zero3", tied=False, accumulate=3, comm="ring", recompute=2)),
        (4, Case("zero3", B=2, comm="ring", clip=0.5)),
        (3, Case("zero3", dtype="float32", comm="ring")),
        (3, Case("zero2", optimizer="adam 1e-8")),
        (4, Case(B=2, comm="ring", clip=0.5)),  # ranks without a sample
        *((4, Case(layout=layout, heads=5, comm="ring", clip=0.5, recompute=1)) for layout in ("tp", "sp")),
        *((3, Case(layout=layout, tied=False, comm="ring", accumulate=3)) for layout in ("tp", "sp")),
        *((4, Case("zero3", layout=layout, tp=2, B=1, comm="ring", optimizer="adam")) for layout in ("tp", "sp")),
        *((2, Case(layout=layout, dtype="float32", comm="ring")) for layout in ("tp", "sp")),
        (4, Case("zero1-overlap", layout="sp", tp=2, clip=0.5)),
        (4, Case("zero3-prefetch", layout="tp", tp=2, accumulate=3, recompute=2)),
    ]


def name(ranks: int, case: Case) -> str:
    """One line that tells the case from all others."""
    details = [case.strategy, f"{ranks} ranks", case.comm, case.optimizer, case.dtype]
    details += [
        f"{case.accumulate} micro-batches",
        f"clip {case.clip}",
        f"recompute {case.recompute}",
        f"{case.layout} {case.tp or ranks} of {case.heads} heads" if case.layout != "dp" else "dp",
        "tied" if case.tied else "untied",
        f"B {case.B}",
    ]
    return ", ".join(details)


def _pairs(combination: dict[str, Any]) -> set:
    return set(itertools.combinations(combination.items(), 2))
