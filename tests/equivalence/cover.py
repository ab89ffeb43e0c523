"""Which combinations are run: all of them in the full matrix, otherwise a cover of all pairs of settings."""

import itertools
import random
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
    settings = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
    rows = [(s.pop("ranks"), Case(**s)) for s in (settings if full else pairwise(AXES))]
    return rows + [
        (3, Case(optimizer="adam 1e-8")),
        (3, Case(dtype="float32", comm="ring")),
        (3, Case(tied=False, accumulate=3, comm="ring")),
        (3, Case("zero3", tied=False, accumulate=3, comm="ring", recompute=2)),
        (4, Case("zero3", B=2, comm="ring", clip=0.5)),
        (3, Case("zero3", dtype="float32", comm="ring")),
        (3, Case("zero2", optimizer="adam 1e-8")),
        (4, Case(B=2, comm="ring", clip=0.5)),  # ranks without a sample
    ]


def name(ranks: int, case: Case) -> str:
    """One line that tells the case from all others."""
    details = [case.strategy, f"{ranks} ranks", case.comm, case.optimizer, case.dtype]
    details += [
        f"{case.accumulate} micro-batches",
        f"clip {case.clip}",
        f"recompute {case.recompute}",
        "tied" if case.tied else "untied",
        f"B {case.B}",
    ]
    return ", ".join(details)


def _pairs(combination: dict[str, Any]) -> set:
    return set(itertools.combinations(combination.items(), 2))
