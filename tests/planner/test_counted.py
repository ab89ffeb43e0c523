"""The planner's formulas predict what real runs count: bytes, FLOPs, peak memory by kind, and virtual time."""

from dataclasses import asdict, fields
from fractions import Fraction
from functools import cache
from typing import Any

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import (
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    ParallelOptions,
    PrecisionOptions,
    StrategyOptions,
)
from minitrain.commands.plan_setup import setup_of
from minitrain.data.text import load_text
from minitrain.observe.virtual_time import Link, Machine
from minitrain.parallel.pipeline_schedules import SCHEDULES
from minitrain.parallel.strategy import Strategy
from minitrain.planner.setup import Setup
from minitrain.planner.sizes import Sizes
from minitrain.planner.step import Rank
from minitrain.planner.timeline import Timeline
from minitrain.tensor import Tensor
from tests.planner.counted import Counted, of_model, of_text, on_ranks
from tests.planner.llama import llama

BUCKET_MB = 0.005
GROUPS = {
    "model": ModelOptions, "data": DataOptions, "parallel": ParallelOptions, "strategy": StrategyOptions,
    "precision": PrecisionOptions,
}  # fmt: skip
SMALL = {
    "layers": 3, "heads": 3, "width": 15, "context": 7, "batch": 7, "bucket_mb": BUCKET_MB, "loss_scale": 8.0,
}  # fmt: skip
MACHINE = Machine(
    Fraction(1, 10**9), Link(Fraction(1, 10**6), Fraction(1, 10**9)), Link(Fraction(7, 10**5), Fraction(1, 10**7)), 2
)

CASES: tuple[dict[str, Any], ...] = (
    {},
    {"precision": "fp16", "dropout": 0.1, "accumulate": 2},
    {"dp": 3, "reduce": "naive", "accumulate": 2, "tied": False},
    {"dp": 3, "reduce": "overlap", "recompute": 2, "dtype": "float64"},
    {"dp": 8, "batch": 11, "zero": 1},
    {"dp": 3, "zero": 2, "accumulate": 2, "precision": "fp16", "half_weights": True},
    {"dp": 2, "tp": 3, "zero": 2, "reduce_once": True, "accumulate": 3},
    {"dp": 3, "zero": 3, "accumulate": 2},
    {"dp": 2, "tp": 2, "sp": True, "zero": 3, "recompute": 1, "dropout": 0.1},
    {"dp": 3, "zero": 3, "prefetch": True, "accumulate": 2, "recompute": 2},
    {"dp": 4, "zero": 3, "prefetch": True, "accumulate": 3, "batch": 13},
    {"tp": 3, "sp": True, "precision": "fp16", "context": 5},
    {"tp": 3, "dropout": 0.1, "dtype": "float64"},
    {"pp": 3, "schedule": "naive", "accumulate": 4, "batch": 9},
    {"pp": 2, "tp": 2, "schedule": "naive", "accumulate": 3, "recompute": 1, "zero": 1},
    {"pp": 3, "schedule": "gpipe", "accumulate": 4, "precision": "fp16"},
    {"dp": 2, "pp": 2, "tp": 2, "schedule": "gpipe", "accumulate": 3, "batch": 13, "sp": True, "zero": 1},
    {"pp": 4, "schedule": "1f1b", "accumulate": 5, "batch": 9, "tied": False},
    {"dp": 3, "pp": 2, "schedule": "1f1b", "accumulate": 2, "recompute": 1, "zero": 1, "precision": "bf16"},
    {"pp": 2, "schedule": "interleaved", "chunks": 2, "accumulate": 4, "batch": 9, "dropout": 0.1},
    {"dp": 2, "pp": 2, "tp": 2, "schedule": "interleaved", "chunks": 2, "accumulate": 2, "sp": True, "zero": 1,
     "precision": "fp16", "batch": 9},
    {"pp": 3, "schedule": "zb-h1", "accumulate": 5, "batch": 11},
    {"dp": 2, "pp": 2, "schedule": "zb-h1", "accumulate": 3, "batch": 13, "precision": "fp16", "zero": 1,
     "tied": False},
    {"pp": 2, "tp": 2, "schedule": "1f1b", "accumulate": 3, "sp": True, "dropout": 0.1, "layers": 4},
    {"pp": 2, "tp": 3, "schedule": "zb-h1", "accumulate": 3, "recompute": 1, "dropout": 0.1},
    {"pp": 3, "schedule": "zb-h2", "accumulate": 6, "batch": 13, "precision": "fp16"},
    {"dp": 2, "pp": 2, "tp": 2, "schedule": "zb-h2", "accumulate": 3, "batch": 13, "sp": True, "zero": 1},
    {"pp": 2, "tp": 3, "schedule": "zb-h2", "accumulate": 4, "recompute": 1, "dropout": 0.1, "tied": False},
    {"pp": 2, "schedule": "zb-v", "accumulate": 4, "batch": 9},
    {"dp": 2, "pp": 2, "schedule": "zb-v", "accumulate": 3, "batch": 13, "precision": "fp16", "zero": 1, "tied": False},
    {"pp": 2, "tp": 2, "schedule": "zb-v", "accumulate": 5, "recompute": 1, "dropout": 0.1, "layers": 4, "sp": True},
    {"pp": 3, "schedule": "zb-v", "accumulate": 5, "batch": 11, "layers": 7, "dropout": 0.1, "recompute": 2},
    {"pp": 4, "schedule": "dualpipe", "accumulate": 8, "batch": 17, "layers": 4},
    {"dp": 2, "pp": 2, "schedule": "dualpipe", "accumulate": 6, "batch": 13, "precision": "fp16", "zero": 1,
     "tied": False},
    {"pp": 2, "tp": 2, "schedule": "dualpipe", "accumulate": 4, "recompute": 1, "dropout": 0.1, "sp": True},
)  # fmt: skip
# Drawn at random after the formulas were written, seeded with the hash of the commit that had them
DRAWN: tuple[dict[str, Any], ...] = (
    {
        "layers": 5,
        "heads": 5,
        "context": 8,
        "batch": 12,
        "dp": 2,
        "pp": 2,
        "accumulate": 3,
        "zero": 1,
        "schedule": "gpipe",
        "dropout": 0.1,
        "tied": False,
        "precision": "fp16",
        "reduce": "overlap",
    },
    {
        "layers": 5,
        "heads": 4,
        "width": 12,
        "context": 2,
        "batch": 12,
        "dp": 3,
        "pp": 2,
        "accumulate": 3,
        "schedule": "naive",
    },
    {
        "layers": 2,
        "width": 9,
        "batch": 8,
        "dp": 2,
        "accumulate": 4,
        "zero": 1,
        "recompute": 3,
        "dropout": 0.1,
        "tied": False,
    },
    {
        "layers": 4,
        "heads": 4,
        "width": 8,
        "context": 4,
        "batch": 8,
        "dp": 2,
        "pp": 2,
        "accumulate": 4,
        "zero": 1,
        "schedule": "gpipe",
        "precision": "fp16",
        "reduce": "overlap",
    },
    {
        "layers": 5,
        "width": 9,
        "batch": 14,
        "pp": 3,
        "accumulate": 6,
        "schedule": "interleaved",
        "chunks": 2,
        "recompute": 3,
        "dtype": "float64",
        "reduce": "overlap",
    },
    {
        "layers": 5,
        "heads": 4,
        "width": 8,
        "context": 4,
        "batch": 11,
        "dp": 2,
        "tp": 3,
        "accumulate": 2,
        "zero": 3,
        "sp": True,
        "recompute": 2,
        "dropout": 0.1,
    },
    {
        "layers": 5,
        "heads": 4,
        "width": 16,
        "context": 4,
        "batch": 17,
        "dp": 3,
        "tp": 2,
        "accumulate": 2,
        "zero": 3,
        "recompute": 3,
        "dropout": 0.1,
        "precision": "bf16",
        "half_weights": True,
        "reduce_once": True,
    },
    {
        "layers": 4,
        "heads": 5,
        "width": 10,
        "context": 3,
        "batch": 9,
        "dp": 4,
        "zero": 2,
        "dropout": 0.1,
        "dtype": "float64",
        "reduce_once": True,
    },
    {
        "layers": 5,
        "heads": 5,
        "context": 9,
        "batch": 10,
        "dp": 2,
        "tp": 3,
        "accumulate": 4,
        "zero": 1,
        "sp": True,
        "precision": "fp16",
        "half_weights": True,
        "reduce": "overlap",
    },
    {
        "layers": 5,
        "width": 9,
        "context": 5,
        "batch": 8,
        "tp": 2,
        "accumulate": 2,
        "dropout": 0.1,
        "tied": False,
        "precision": "fp16",
        "reduce": "naive",
    },
)


def config_of(case: dict[str, Any]) -> TrainConfig:
    """Return the configuration with these options of the command line."""
    given = SMALL | case
    groups = {
        name: kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given}) for name, kind in GROUPS.items()
    }
    assert set(given) <= {name for group in groups.values() for name in asdict(group)}
    return TrainConfig(**groups, optimizer=OptimizerOptions(steps=10))


def ranks_of(case: dict[str, Any]) -> int:
    """Return the number of ranks."""
    return case.get("dp", 1) * case.get("pp", 1) * case.get("tp", 1)


@cache
def vocabulary() -> int:
    """Return the number of characters of the bundled text."""
    return len(set(load_text(None)))


def name_of(case: dict[str, Any]) -> str:
    """Return the options in one word."""
    return " ".join(f"{key} {value}" for key, value in case.items()) or "serial"


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any Tensor and any Communicator raise."""

    def raises(self: object, *args: object, **options: object) -> None:
        raise AssertionError(f"a {type(self).__name__} was made, where formulas should do")

    for kind in (Tensor, Communicator):
        monkeypatch.setattr(kind, "__init__", raises)


@pytest.mark.parametrize("case", CASES + DRAWN, ids=name_of)
def test_a_run_counts_what_the_formulas_predict(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, ranks = config_of(case), ranks_of(case)
    counted = on_ranks(lambda world: of_text(config, world, MACHINE), ranks)
    refuse(monkeypatch)
    compare(setup_of(config, vocabulary(), ranks), counted)


def test_everything_is_counted_three_times() -> None:
    every = [SMALL | case for case in CASES + DRAWN]
    pipelines = [case["schedule"] for case in every if case.get("pp", 1) > 1]
    assert all(pipelines.count(schedule) >= 3 for schedule in SCHEDULES)
    stages = [case.get("zero", 0) for case in every]
    assert all(stages.count(stage) >= 3 for stage in range(4))
    for wanted in ("tp", "sp", "recompute"):
        assert sum(case.get(wanted, 0) > (wanted == "tp") for case in every) >= 3
    assert sum(case.get("precision") == "fp16" for case in every) >= 3
    assert len(every) >= 30 and len(DRAWN) == 10


LLAMA = Sizes("llama", 11, 8, layers=3, heads=6, width=24, kv_heads=3, hidden=40, tied=False, length=7)
LLAMAS: tuple[dict[str, Any], ...] = (
    {},
    {"dp": 3, "zero": 3, "accumulate": 2},
    {"tp": 3, "recompute": 1},
    {"dp": 2, "tp": 3, "sp": True, "zero": 2},
    {"pp": 3, "schedule": "zb-h1", "accumulate": 4},
    {"pp": 2, "tp": 3, "schedule": "zb-v", "accumulate": 4},
    {"dp": 2, "pp": 2, "tp": 2, "schedule": "interleaved", "chunks": 2, "accumulate": 2, "zero": 1, "sp": True},
)


@pytest.mark.parametrize("case", LLAMAS, ids=name_of)
def test_a_llama_counts_what_the_formulas_predict(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    options = {name: value for name, value in case.items() if name in {f.name for f in fields(Strategy)}}
    axes = {name: value for name, value in case.items() if name not in options}
    setup = Setup(LLAMA, 9, **axes, strategy=Strategy(**options, bucket_mb=BUCKET_MB))
    counted = on_ranks(lambda world: of_model(llama(setup.sizes), setup, world, MACHINE), setup.ranks)
    refuse(monkeypatch)
    compare(setup, counted)


def compare(setup: Setup, counted: list[Counted]) -> None:
    """Assert that every rank counts what the formulas predict."""
    planned = [Rank(setup, place).update() for place in setup.places()]
    timeline = Timeline({rank.number: rank.events for rank in planned}, MACHINE)
    for rank, real in zip(planned, counted, strict=True):
        assert +rank.sent == real.sent
        assert rank.flops == real.flops
        assert timeline.ranks[rank.number].time == real.time > 0
        check_memory(rank.memory.peak, real)


def check_memory(peak: dict[str, int], real: Counted) -> None:
    """Assert that each kind is exact, and that buffers, and with them the total, are within one bucket."""
    bucket = BUCKET_MB * 2**20
    for kind in ("parameters", "gradients", "optimizer", "activations"):
        assert peak[kind] == real.peak[kind], kind
    for kind in ("buffers", "total"):
        assert abs(peak[kind] - real.peak[kind]) <= bucket, kind
