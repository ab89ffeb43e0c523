"""Select the combinations to run: all of them in the full matrix, otherwise a cover of all pairs of settings."""

import itertools
import random
from dataclasses import replace
from typing import Any

from minitrain.parallel.pipeline_schedules import SCHEDULES
from minitrain.precision import DynamicScaler, StaticScaler
from tests.equivalence.harness import STRATEGIES, Case

RANKS = (2, 3, 4)
MESHES = (2, 3, 4, 8)  # world sizes of the matrix
AXES: dict[str, tuple] = {
    "ranks": RANKS,
    "strategy": tuple(STRATEGIES),
    "comm": ("mpi", "ring"),
    "optimizer": ("sgd", "adam"),
    "accumulate": (1, 3),
    "clip": (None, 0.5),
    "recompute": (0, 1, 2),
}


MODEL: dict[str, tuple] = {  # tensor and sequence parallel
    **AXES,
    "strategy": ("dp-bucketed", "zero1", "zero2", "zero3"),
    "recompute": (0, 2),
    "layout": ("tp", "sp"),
}


PIPELINE: dict[str, tuple] = {  # pipeline
    "ranks": (2, 3, 4),
    "strategy": ("dp-bucketed", "dp-overlap", "zero1"),
    "schedule": tuple(SCHEDULES),
    "comm": ("mpi", "ring"),
    "optimizer": ("sgd", "adam"),
    "accumulate": (1, 3, 8),
    "clip": (None, 0.5),
    "recompute": (0, 1),
}


def pairwise(axes: dict[str, tuple], seed: int = 0) -> list[dict[str, Any]]:
    """Return combinations that contain every pair of settings of any two axes. Greedy; deterministic given the seed."""
    names = list(axes)
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())]
    random.Random(seed).shuffle(everything)
    pairs = list(map(_pairs, everything))
    missing = set().union(*pairs)
    chosen = []
    while missing:
        best = max(range(len(everything)), key=lambda i: len(pairs[i] & missing))
        chosen.append(everything[best])
        missing -= pairs[best]
    return chosen


def cases(full: bool) -> list[tuple[int, Case]]:
    """Return the matrix as (ranks, case) pairs, including hand-written corner cases."""
    rows = []
    for axes in (AXES, MODEL):
        everything = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        rows += [(s.pop("ranks"), Case(**s)) for s in (everything if full else pairwise(axes))]
    everything = [dict(zip(PIPELINE, values, strict=True)) for values in itertools.product(*PIPELINE.values())]
    for s in everything if full else pairwise(PIPELINE):
        ranks = s.pop("ranks")
        case = Case(**s, layout="pp", pp=ranks, layers=6, B=11)
        if case.schedule == "dualpipe":  # an even number of ranks
            ranks = ranks if ranks % 2 == 0 else 2
            case = replace(case, pp=ranks, accumulate=ranks * 2)
        rows.append((ranks, case if case.schedule != "interleaved" else replace(case, accumulate=ranks * 2)))
    both = [(n, replace(case, tp=2) if n == 4 and case.layout in ("tp", "sp") else case) for n, case in rows]
    return both + [
        (3, Case(optimizer="adam 1e-8")),
        (3, Case(dtype="float32", comm="ring")),
        (3, Case(tied=False, accumulate=3, comm="ring", ignore=True)),
        (3, Case("zero3", tied=False, accumulate=3, comm="ring", recompute=2, ignore=True)),
        (4, Case("zero3", B=2, comm="ring", clip=0.5)),
        (3, Case("zero3", dtype="float32", comm="ring")),
        (3, Case("zero2", optimizer="adam 1e-8", ignore=True)),
        (4, Case(B=2, comm="ring", clip=0.5)),  # more ranks than samples
        *((4, Case(layout=layout, heads=5, comm="ring", clip=0.5, recompute=1)) for layout in ("tp", "sp")),
        *((3, Case(layout=layout, tied=False, comm="ring", accumulate=3, ignore=True)) for layout in ("tp", "sp")),
        *((4, Case("zero3", layout=layout, tp=2, B=1, comm="ring", optimizer="adam")) for layout in ("tp", "sp")),
        *((2, Case(layout=layout, dtype="float32", comm="ring", ignore=True)) for layout in ("tp", "sp")),
        (4, Case("zero1-overlap", layout="sp", tp=2, clip=0.5)),
        (4, Case("zero3-prefetch", layout="tp", tp=2, accumulate=3, recompute=2)),
        *(
            (4, Case("zero1", layout="pp", pp=2, schedule=schedule, accumulate=4, clip=0.5, layers=3))
            for schedule in SCHEDULES
        ),
        *(
            (4, Case(layout=layout, pp=2, tied=False, accumulate=3, layers=3, ignore=True))
            for layout in ("pp+tp", "pp+sp")
        ),
        *(
            (8, Case("zero1", layout=layout, pp=2, tp=2, accumulate=3, clip=0.5, recompute=1))
            for layout in ("pp+tp", "pp+sp")
        ),
        (8, Case(layout="pp+tp", pp=2, tp=2, schedule="zb-h1", accumulate=4, comm="ring", layers=3, optimizer="adam")),
        (8, Case("zero1", layout="pp+sp", pp=2, tp=2, schedule="dualpipe", accumulate=4, clip=0.5)),
        (3, Case(layout="pp", pp=3, dtype="float32", accumulate=3, comm="ring", ignore=True)),
        (2, Case(layout="pp", pp=2, B=2, accumulate=3, comm="ring")),  # an empty micro-batch
        (3, Case("dp-overlap", scaler=StaticScaler, accumulate=3, clip=0.5, ignore=True)),  # with a loss scale
        (4, Case("zero1", scaler=DynamicScaler, B=2, clip=0.5, optimizer="adam", comm="ring")),
        (3, Case("zero2", scaler=DynamicScaler, accumulate=3, clip=0.5, ignore=True)),
        (3, Case("zero3", scaler=DynamicScaler, accumulate=3, optimizer="adam")),
        (4, Case("zero3", scaler=DynamicScaler, layout="tp", tp=2, clip=0.5)),
        (3, Case(scaler=DynamicScaler, layout="sp", clip=0.5, comm="ring")),
        (3, Case(scaler=DynamicScaler, layout="pp", pp=3, accumulate=3, clip=0.5)),
        (4, Case("zero1", scaler=DynamicScaler, layout="pp+tp", pp=2, tp=2, accumulate=3, clip=0.5)),
        (3, Case(start="imported", comm="ring")),  # from the files of a GPT-2
        (3, Case("zero3", start="imported", optimizer="adam", accumulate=3, recompute=1)),
        (2, Case("zero2", start="imported", clip=0.5, comm="ring")),
        (3, Case(start="imported", layout="tp", heads=4, clip=0.5, optimizer="adam")),
        (2, Case(start="imported", layout="sp", accumulate=3)),
        (3, Case(start="imported", layout="pp", pp=3, accumulate=3)),
        (4, Case("zero1", start="imported", layout="pp+tp", pp=2, tp=2, accumulate=3, optimizer="adam")),
    ]


def name(ranks: int, case: Case) -> str:
    """Return one line that identifies the case."""
    details = [case.strategy, f"{ranks} ranks", case.comm, case.optimizer, case.dtype]
    details += [
        f"{case.accumulate} micro-batches",
        f"clip {case.clip}",
        f"recompute {case.recompute}",
        f"{case.layout} {case.tp or ranks} of {case.heads} heads" if case.layout != "dp" else "dp",
        f"pp {case.pp} {case.schedule} {case.layers} layers",
        "tied" if case.tied else "untied",
        f"B {case.B}",
    ]
    if case.ignore:
        details.append("ignored labels")
    if case.start:
        details.append(case.start)
    if case.scaler:
        details.append(f"loss scale {case.scaler().value:g}")
    return ", ".join(details)


def _pairs(combination: dict[str, Any]) -> set:
    return set(itertools.combinations(combination.items(), 2))
