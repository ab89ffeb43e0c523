"""Invalid values for every public constructor and call: an error of ours, raised at once, names the culprit.

A case is a call, valid arguments, and the invalid values of each argument. Hypothesis draws them: wrong types, out of
range, NaN, infinite, huge. Wrong objects of ours (a mesh for a model) are left to the type checker.
"""

import inspect
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain import errors, fused, lr_schedules, rng
from minitrain.comm import threads
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.commands.config import TrainConfig, memory
from minitrain.commands.options import DataOptions, LearningRates, ModelOptions, OptimizerOptions, RunOptions
from minitrain.commands.plan import Plan
from minitrain.commands.plan_options import PlannedMachine, PlannedModel, PlannedStrategy
from minitrain.commands.train import TextTrainer
from minitrain.data.batch import Batch, Where
from minitrain.data.bpe import BytePairTokenizer
from minitrain.data.digits import split_digits
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.data.text import CharTokenizer, load_text, split
from minitrain.errors import UserError, shown
from minitrain.models import Attention, GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Dropout, Embedding, LayerNorm, Linear, Module, Parameter, Placement
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, AdamW, clip_grad_norm
from minitrain.parallel.buckets import Bucket, make_buckets
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import DividedModel, Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.planner.search import Request
from minitrain.planner.sizes import Sizes
from minitrain.precision import DTYPES, POLICIES, DynamicPolicy, DynamicScaler, StaticPolicy, StaticScaler
from minitrain.runtime import mpirun
from minitrain.runtime.mpirun import find_mpirun
from minitrain.tensor import Tensor
from minitrain.train.generate import generate
from minitrain.train.step import train_step
from minitrain.train.trainer import Trainer

Values = st.SearchStrategy[Any]
MPIRUN = find_mpirun()
ROOT = Path(__file__).resolve().parents[1]
TAG = ("dp", "test")
HUGE = 10**12  # of anything: more than a machine holds

# Invalid values -------------------------------------------------------------------------------------------------------

STRANGE = st.sampled_from(["x", "", "1", None, [1], (), {}, b"1", 1j, object(), True, np.ones(2), np.bool_(True)])
ENDLESS = st.sampled_from([math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("-inf")])


# Wrong values next to the valid ones, such as 0 if the minimum is 1. Each is tried, since few draws would hit them.
BORDERS: dict[Values, list[Any]] = {}


def no_whole(least: int = 0, most: int = 2**63 - 1) -> Values:
    """Draw anything but an integer in least..most; 3.0 is not an integer either."""
    below, above = st.integers(max_value=least - 1), st.integers(min_value=most + 1, max_value=10**400)
    values = STRANGE | ENDLESS | st.floats() | below | above | st.just(np.int64(-3) if least > -3 else 1.5)
    BORDERS[values] = [least - 1, most + 1, least + 0.5, float(least)]
    return values


def no_number(allowed: Callable[[float], bool]) -> Values:
    """Draw anything but a finite number for which `allowed` holds."""
    edges = [0, 0.0, -1e-300, 1, 1.0, np.nextafter(1, 2), -1, 10**400, -(10**400), np.float32(-1), np.int64(-1)]
    wrong = [x for x in edges if not (finite(x) and allowed(float(x)))]
    values = STRANGE | ENDLESS | st.floats().filter(lambda x: not (finite(x) and allowed(x))) | st.sampled_from(wrong)
    BORDERS[values] = wrong
    return values


def but(values: Values, allowed: Callable[[Any], bool]) -> Values:
    """Remove values that are valid here, such as None for an optional argument."""
    rest = values.filter(lambda x: not allowed(x))
    BORDERS[rest] = [x for x in BORDERS[values] if not allowed(x)]
    return rest


def is_none(x: Any) -> bool:
    return x is None


def finite(x: Any) -> bool:
    return abs(x) <= sys.float_info.max if isinstance(x, int) else math.isfinite(x)


def no_choice(*choices: str) -> Values:
    """Draw anything but one of these words."""
    return STRANGE | ENDLESS | st.integers() | st.text(max_size=5).filter(lambda x: x not in choices)


NO_NUMBER = no_number(lambda x: True)
NEGATIVE = no_number(lambda x: x >= 0)
NOT_POSITIVE = no_number(lambda x: x > 0)
NO_SHARE = no_number(lambda x: 0 <= x < 1)
NO_PROBABILITY = no_number(lambda x: 0 <= x <= 1)
NO_COUNT, NO_SIZE, NO_SEED = no_whole(0), no_whole(1), no_whole(-(2**63))
NO_KEY = no_whole(0, 2**128 - 1)
NO_OPTIONAL_SIZE = but(NO_SIZE, is_none)
NO_PATH = st.sampled_from([3, math.nan, b"x", ["a"], True])
NO_FLAG: Values = st.sampled_from(["x", "True", None, 2, -1, 0.5, math.nan, []])
NO_DTYPE: Values = st.sampled_from(["x", "int32", np.int64, bool, object, None, 3, [], "float32 "])
NO_TEXT = st.sampled_from([None, 3, math.nan, b"ab", ["a"], 1j])
NO_SHAPE = st.one_of(
    st.tuples(no_whole(0), st.just(2)), st.sampled_from([None, 3, "ab", 2.5, [2, 3], np.ones(2), (math.nan,)])
)


# The calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """call(**good) succeeds; with any one argument drawn from `bad` it raises `error`."""

    name: str
    call: Callable[..., Any]
    good: dict[str, Any]
    bad: dict[str, Values]
    error: tuple[type[Exception], ...] = (UserError,)
    also: dict[str, Any] = field(default_factory=dict)  # single invalid values, with the other arguments valid


def parameter(dtype: str = "float32", name: str = "p") -> Parameter:
    return Parameter(name, (2, 3), std=1.0, dtype=dtype)


def one() -> Mesh:
    return Mesh(threads.world_of_one())


def reducer(seed: int = 1) -> Reducer:
    return in_buckets(Model([Own()]), seed)


class Own(Module):
    """A unit with one parameter."""

    def __init__(self) -> None:
        self.own = parameter()


def in_buckets(model: Model, seed: int) -> Reducer:
    made = Bucketed(DividedModel(model, one(), make_buckets(model.parameters(), 1.0, one())))
    made.init(seed)
    return made


def with_gradients() -> Reducer:
    """Return a reducer after a backward."""
    made = reducer()
    made.start_step()
    made.end_backward()
    made.synchronize()
    return made


def batch() -> Batch:
    return Batch(np.zeros((4, 2), int), None, Where(1, 0, 4, 2, slice(0, 4), slice(0, 2)))


def placement(**cut: Any) -> Placement:
    return Placement("p", (4, 3), (slice(0, 4), slice(0, 3))).split(**cut)


def tokens(n: int = 50) -> np.ndarray:
    return np.arange(n) % 5


def write(**arguments: Any) -> np.ndarray:
    model = gpt(GPTConfig(5, 4, 1, 1, 4))
    model.init(1)
    return generate(model, **arguments)


def world() -> threads.ThreadCommunicator:
    return threads.world_of_one()


def loss(denominator: Any) -> Tensor:
    return fused.cross_entropy(Tensor(np.zeros((2, 3))), np.array([0, 1]), denominator)


def everybody(call: Callable[[Any], Any]) -> list[Any]:
    """Run call(world) on two ranks as threads. Raise the cause if a rank raises."""
    try:
        return threads.run(2, call, timeout=5)
    except RuntimeError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


def examples() -> ArrayLoader:
    return ArrayLoader(np.ones((5, 3), np.float32), np.array([0, 1, 0, 1, 1]), batch=2, seed=1)


def trainer(**options: Any) -> Trainer:
    return Trainer(mlp(MLPConfig(3, (4,), 2)), world(), **options)


def planned(**options: Any) -> Request:
    return Plan(**options).request()[0]


GPT_GOOD = {
    "vocabulary": 5, "context": 4, "layers": 1, "heads": 2, "width": 4,
    "dropout": 0.1, "tied": True, "std": 0.02, "dtype": "float32", "epsilon": 1e-5,
}  # fmt: skip
LAYER_BAD = {"dtype": NO_DTYPE, "std": NEGATIVE}
ADAM_GOOD = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
ADAM_BAD = {"beta1": NO_SHARE, "beta2": NO_SHARE, "epsilon": NEGATIVE}
GENERATE_GOOD = {"context": 4, "prompt": np.array([1, 2]), "length": 2, "temperature": 0.5, "seed": 1}
GENERATE_GOOD |= {"top_k": 2, "top_p": 0.5}
NO_IDS = st.sampled_from([np.zeros((2, 2), int), np.ones(3), np.array([]), [1.5], ["a"], None, 3, "ab", [math.nan]])
NO_LOADER: Values = st.sampled_from(
    [[], (np.ones((2, 3)), np.ones(2)), np.ones((2, 3)), "digits", 3, {"x": 1}, TextLoader]
)

# For each schedule: valid arguments besides t, peak and floor, and values of them that are invalid in combination.
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "constant": ({}, {}),
    "linear": ({"updates": 9}, {"floor": 0.2}),
    "polynomial": ({"updates": 9, "power": 2.0}, {"floor": 0.2}),
    "cosine": ({"updates": 9}, {"floor": 0.2}),
    "cosine_restarts": ({"period": 4, "factor": 2}, {"floor": 0.2}),
    "exponential": ({"gamma": 0.9, "every": 2}, {"floor": 0.2}),
    "step": ({"gamma": 0.9, "every": 2}, {"floor": 0.2}),
    "inverse_time": ({"k": 0.5, "every": 2}, {"floor": 0.2}),
    "warmup_cosine": ({"warm": 2, "updates": 9}, {"floor": 0.2, "warm": 9, "updates": 2}),
    "one_cycle": ({"updates": 9, "rise": 0.4, "start": 25.0, "end": 100.0}, {"rise": 0.9, "updates": 2}),
    "one_cycle_momentum": ({"updates": 9, "low": 0.8, "high": 0.9, "rise": 0.4}, {"rise": 0.1, "low": 0.95}),
    "range_test": ({"min_lr": 1e-3, "max_lr": 1.0, "updates": 9}, {"min_lr": 2.0, "max_lr": 1e-3, "updates": 1}),
    "warmup": ({"updates": 2, "then": lambda t: 0.1}, {}),
    "anneal": ({"points": [(0, 0.1), (5, 0.3)]}, {"points": [(0, 0.1), (5, 0.3), (5, 0.1)]}),
    "reduce_on_plateau": (
        {"losses": [1.0, 2.0], "factor": 0.5, "patience": 1, "threshold": 0.1, "cooldown": 2}, {"floor": 0.2}
    ),
}  # fmt: skip
NO_FIGURE = but(no_number(lambda x: 1e-6 <= x <= 1e9), is_none)
NO_LATENCY = but(no_number(lambda x: x == 0 or 1e-6 <= x <= 1e9), is_none)
NO_GAMMA, NO_OPEN_SHARE = no_number(lambda x: 0 < x <= 1), no_number(lambda x: 0 < x < 1)
SCHEDULE_BAD = {
    "t": NO_COUNT, "updates": NO_SIZE, "period": NO_SIZE, "factor": NO_SIZE, "every": NO_SIZE, "warm": NO_COUNT,
    "peak": NEGATIVE, "floor": NEGATIVE, "power": NOT_POSITIVE, "gamma": NO_GAMMA, "k": NEGATIVE,
    "rise": NO_OPEN_SHARE, "start": NOT_POSITIVE, "end": NOT_POSITIVE, "low": NO_SHARE, "high": NO_SHARE,
    "points": st.sampled_from([[], [(1, 0.1)], [(0, 0.1), (0, 0.2)], [(0, 0.1), (5, 0.2), (4, 0.1)]]),
    "losses": st.sampled_from([3, None, "12", ["a"], [1.0, None], [True], {1.0: 2.0}]),
    "min_lr": NOT_POSITIVE, "max_lr": NOT_POSITIVE, "patience": NO_COUNT, "threshold": NO_SHARE, "cooldown": NO_COUNT,
}  # fmt: skip


def schedule_case(name: str) -> Case:
    """Return the case of a schedule in lr_schedules.py. Arguments of one name share their invalid values."""
    options, together = SCHEDULES[name]
    function = getattr(lr_schedules, name)
    given = {"t": 3, "peak": 0.1, "floor": 0.01}
    good = {key: value for key, value in given.items() if key in inspect.signature(function).parameters} | options
    bad = {key: SCHEDULE_BAD[key] for key in good if key != "then"}
    if name == "warmup":
        bad["updates"] = NO_COUNT
    if name == "reduce_on_plateau":
        bad["factor"] = NO_OPEN_SHARE
    return Case(name, function, good, bad, also=together)


CASES = [
    Case(
        "GPTConfig",
        lambda **sizes: gpt(GPTConfig(**sizes)),
        GPT_GOOD,
        {
            **dict.fromkeys(("vocabulary", "context", "layers", "heads", "width"), NO_SIZE),
            "dropout": NO_SHARE,
            "tied": NO_FLAG,
            "std": NEGATIVE,
            "dtype": no_choice("float32", "float64"),
            "epsilon": NEGATIVE,
        },
        also={"layers": HUGE, "heads": HUGE},
    ),
    Case(
        "MLPConfig",
        lambda **sizes: mlp(MLPConfig(**sizes)),
        {"inputs": 3, "hidden": (4, 5), "classes": 2, "dtype": "float64"},
        {
            "inputs": NO_SIZE,
            "classes": NO_SIZE,
            "dtype": no_choice("float32", "float64"),
            "hidden": st.tuples(NO_SIZE) | st.sampled_from([None, 3, "ab", 2.5]),
        },
    ),
    Case(
        "Linear",
        Linear,
        {"path": "l", "fan_in": 3, "fan_out": 4, "std": 0.1, "dtype": "float32"},
        {**LAYER_BAD, "fan_in": NO_COUNT, "fan_out": but(NO_COUNT, lambda x: isinstance(x, tuple))},
    ),
    Case(
        "LayerNorm",
        LayerNorm,
        {"path": "n", "width": 3, "dtype": "float64"},
        {"width": NO_COUNT, "dtype": NO_DTYPE},
    ),
    Case(
        "Embedding",
        Embedding,
        {"path": "e", "rows": 3, "width": 2, "std": 0.1, "dtype": "float32"},
        {**LAYER_BAD, "rows": NO_COUNT, "width": NO_COUNT},
    ),
    Case("Dropout", Dropout, {"path": "d", "p": 0.1}, {"p": NO_SHARE}),
    Case(
        "Attention",
        Attention,
        {"path": "a", "width": 4, "heads": 2, "std": 0.1, "out_std": 0.1, "dtype": "float32"},
        {"width": NO_SIZE, "heads": NO_SIZE, "std": NEGATIVE, "out_std": NEGATIVE},
        also={"heads": 3, "width": 7},
    ),
    Case(
        "Parameter",
        Parameter,
        {"path": "p", "shape": (2, 3), "mean": 0.0, "std": 0.1, "dtype": "float32"},
        {**LAYER_BAD, "path": NO_TEXT, "mean": NO_NUMBER, "shape": NO_SHAPE},
    ),
    Case("Parameter.initial_values", parameter().initial_values, {"seed": 1}, {"seed": NO_SEED}),
    Case(
        "Placement.split",
        placement,
        {"dim": 1, "lo": 1, "hi": 2},
        {"dim": no_whole(0, 1), "lo": no_whole(0, 2), "hi": no_whole(1, 3)},
        (UserError, ValueError),
    ),
    Case(
        "SGD",
        lambda **rest: SGD(reducer(), **rest),
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": NO_SHARE, "weight_decay": NEGATIVE},
    ),
    Case("Adam", lambda **rest: Adam(reducer(), **rest), ADAM_GOOD, ADAM_BAD),
    Case(
        "AdamW",
        lambda **rest: AdamW(reducer(), **rest),
        {"weight_decay": 0.1, **ADAM_GOOD},
        {"weight_decay": NEGATIVE, **ADAM_BAD},
    ),
    Case("Optimizer.step", lambda lr: SGD(with_gradients()).step(lr), {"lr": 0.1}, {"lr": NEGATIVE}),
    Case(
        "clip_grad_norm", lambda limit: clip_grad_norm(with_gradients(), limit), {"limit": 1.0}, {"limit": NOT_POSITIVE}
    ),
    *map(schedule_case, SCHEDULES),
    Case(
        "StaticPolicy",
        lambda name, dtype: StaticPolicy(name, {"head": dtype}),
        {"name": "mixed_float16", "dtype": "float32"},
        {"name": no_choice(*POLICIES), "dtype": no_choice(*DTYPES)},
    ),
    Case(
        "DynamicPolicy",
        lambda cast, **rest: DynamicPolicy(casts={"linear": cast}, **rest),
        {"half": "float16", "cast": "half", "patience": 3, "rest": 5},
        {
            "half": no_choice("float16", "bfloat16"),
            "cast": no_choice("half", "as given", "float32"),
            "patience": NO_COUNT,
            "rest": NO_SIZE,
        },
    ),
    Case("StaticScaler", StaticScaler, {"value": 8.0, "patience": 2}, {"value": NOT_POSITIVE, "patience": NO_SIZE}),
    Case(
        "DynamicScaler",
        DynamicScaler,
        {"value": 8.0, "growth": 2.0, "backoff": 0.5, "interval": 5, "floor": 1.0, "patience": 2},
        {
            "value": NOT_POSITIVE,
            "growth": no_number(lambda x: x > 1),
            "backoff": NO_OPEN_SHARE,
            "interval": NO_SIZE,
            "floor": NOT_POSITIVE,
            "patience": NO_SIZE,
        },
        also={"value": 0.5, "floor": 9.0},
    ),
    Case(
        "Mesh",
        lambda **sizes: Mesh(world(), **sizes),
        {"dp": 1, "tp": 1},
        {"dp": NO_SIZE, "tp": NO_SIZE},
        also={"dp": 2**32, "tp": 3},
    ),
    Case(
        "make_buckets",
        lambda megabytes: make_buckets([parameter()], megabytes, one()),
        {"megabytes": 1.0},
        {"megabytes": but(NOT_POSITIVE, lambda x: type(x) in (int, float) and x > 0)},
        (UserError, ValueError),
    ),
    Case(
        "Bucket",
        lambda parameters: Bucket(parameters, world()),
        {"parameters": [parameter(), parameter()]},
        {"parameters": st.sampled_from([[], [parameter(), parameter("float64")], [parameter(name="twice")] * 2])},
    ),
    Case("Reducer", reducer, {"seed": 1}, {"seed": NO_SEED}),
    Case(
        "Reducer.start_step",
        lambda backwards: reducer().start_step(backwards),
        {"backwards": 2},
        {"backwards": NO_SIZE},
    ),
    Case(
        "parallelize",
        lambda **fields: parallelize(gpt(GPTConfig(5, 4, 1, 1, 4)), one(), Strategy(**fields)),
        {
            "zero": 1,
            "reduce": "bucketed",
            "bucket_mb": 1.0,
            "recompute": 1,
            "schedule": "1f1b",
            "chunks": 1,
            "grad_dtype": "full",
            "owners": "elements",
        },
        {
            "zero": NO_COUNT,
            "reduce": no_choice("naive", "bucketed", "overlap"),
            "bucket_mb": NOT_POSITIVE,
            "recompute": NO_COUNT,
            "schedule": no_choice("naive", "gpipe", "1f1b", "interleaved", "zb-h1"),
            "chunks": NO_SIZE,
            "grad_dtype": no_choice("full", "fp16", "bf16"),
            "owners": no_choice("elements", "parameters"),
        },
        also={"zero": 4, "reduce": "naive", "chunks": 2, "reduce_once": True, "prefetch": 3, "sp": True, "check": 1},
    ),
    Case(
        "TextLoader",
        TextLoader,
        {"ids": tokens(), "context": 4, "batch": 3, "seed": 1},
        {"ids": NO_IDS, "context": NO_SIZE, "batch": NO_SIZE, "seed": NO_SEED},
        also={"context": 50, "batch": HUGE},
    ),
    Case("TextLoader.batch", TextLoader(tokens(), 4, 3, 1).batch, {"number": 2}, {"number": NO_COUNT}),
    Case(
        "TextLoader.validation",
        lambda most: list(TextLoader(tokens(), 4, 3, 1).validation(most)),
        {"most": 2},
        {"most": but(NO_SIZE, is_none)},
    ),
    Case(
        "ArrayLoader",
        ArrayLoader,
        {"inputs": np.ones((6, 2)), "labels": np.zeros(6, int), "batch": 4, "seed": 1},
        {
            "batch": NO_SIZE,
            "seed": NO_SEED,
            "inputs": st.sampled_from([None, 3, 2.5, np.float64(3), np.ones((5, 2)), np.ones((0, 2))]),
            "labels": st.sampled_from([None, 3, 2.5, np.float64(3), np.zeros(5, int), np.zeros(6)]),
        },
    ),
    Case(
        "ArrayLoader.batch",
        ArrayLoader(np.ones((6, 2)), np.zeros(6, int), 4, 1).batch,
        {"number": 5},
        {"number": NO_COUNT},
    ),
    Case(
        "Batch.part", batch().part, {"i": 1, "n": 3}, {"i": no_whole(0, 2), "n": no_whole(2)}, (UserError, ValueError)
    ),
    Case("Batch.split", batch().split, {"n": 3}, {"n": NO_SIZE}, (UserError, ValueError)),
    Case(
        "split_digits",
        lambda **rest: split_digits(np.ones((9, 4)), np.zeros(9, int), **rest),
        {"seed": 1, "validation": 0.3},
        {"seed": NO_SEED, "validation": no_number(lambda x: 0.1 <= x <= 0.9)},
    ),
    Case(
        "split",
        lambda validation: split(tokens(), validation),
        {"validation": 0.3},
        {"validation": no_number(lambda x: 0.005 <= x <= 0.995)},
    ),
    Case(
        "threads.run",
        lambda **rest: threads.run(program=lambda world: world.rank, **rest),
        {"size": 2, "timeout": 3.0},
        {"size": NO_SIZE, "timeout": NOT_POSITIVE},
        also={"size": HUGE},
    ),
    Case(
        "key",
        lambda part: rng.key(1, part),
        {"part": "name"},
        {"part": st.sampled_from([1.0, math.nan, None, [1], b"a"])},
    ),
    Case("words", rng.words, {"k": 1, "lo": 2, "hi": 9}, {"k": NO_KEY, "lo": NO_COUNT, "hi": NO_COUNT}),
    Case(
        "normal",
        rng.normal,
        {"k": 1, "shape": (2, 3), "index": (slice(0, 1), slice(1, 2))},
        {
            "k": NO_KEY,
            "shape": NO_SHAPE,
            "index": st.sampled_from([(slice(0, 1),), (0, 1), 3, "ab", (slice(0, 1), slice(0, 3, 2))]),
        },
    ),
    Case(
        "mask",
        rng.mask,
        {"k": 1, "shape": (2, 3), "index": None, "p": 0.5},
        {"p": NO_PROBABILITY, "k": NO_KEY, "shape": NO_SHAPE},
        also={"shape": (HUGE, 2)},
    ),
    Case(
        "permutation",
        rng.permutation,
        {"k": 1, "n": 4},
        {"k": NO_KEY, "n": NO_COUNT},
        also={"n": HUGE},
    ),
    Case(
        "integers",
        rng.integers,
        {"k": 1, "count": 4, "bound": 7},
        {"k": NO_KEY, "count": NO_COUNT},
        also={"count": HUGE},
    ),
    Case(
        "integers' bound",
        rng.integers,
        {"k": 1, "count": 4, "bound": 7},
        {"bound": no_whole(1, 2**32)},
        (UserError, ValueError),
    ),
    Case(
        "generate",
        write,
        GENERATE_GOOD,
        {
            **{"context": NO_SIZE, "prompt": NO_IDS, "length": NO_COUNT, "temperature": NEGATIVE, "seed": NO_SEED},
            "top_k": but(NO_SIZE, is_none),
            "top_p": but(no_number(lambda x: 0 < x <= 1), is_none),
        },
        also={"length": HUGE},
    ),
    Case(
        "Trainer",
        trainer,
        {
            "optimizer": SGD,
            "schedule": 0.1,
            "momentum": None,
            "seed": 1,
            "strategy": Strategy(zero=1),
            "accumulate": 2,
            "clip": 0.5,
        },
        {
            "optimizer": STRANGE | ENDLESS,
            "schedule": NEGATIVE,
            "momentum": st.sampled_from([0.9, "x", [0.9], math.nan, True]),
            "seed": NO_SEED,
            "strategy": st.sampled_from(["zero1", 3, True, [("zero", 1)], {"zero": 1}, "", (), None, Strategy]),
            "accumulate": NO_SIZE,
            "clip": but(NOT_POSITIVE, is_none),
        },
    ),
    Case(
        "fit",
        lambda **rest: trainer().fit(**rest),
        {"train": examples(), "epochs": 1, "validation": examples(), "patience": 1},
        {
            "train": NO_LOADER | st.none(),
            "epochs": NO_SIZE,
            "validation": NO_LOADER,
            "patience": but(NO_SIZE, is_none),
        },
        also={"validation": None},
    ),
    Case(
        "fit for updates",
        lambda **rest: trainer().fit(examples(), **rest),
        {"updates": 2, "validate_every": 1},
        {"updates": NO_SIZE, "validate_every": but(NO_SIZE, is_none)},
    ),
    Case(
        "each_update",
        lambda **rest: list(trainer().each_update(**rest)),
        {"train": examples(), "updates": 1},
        {"train": NO_LOADER | st.none(), "updates": NO_COUNT},
    ),
    Case("CharTokenizer", CharTokenizer, {"vocabulary": "abc"}, {"vocabulary": NO_TEXT | st.sampled_from(["", "aba"])}),
    Case("encode", CharTokenizer("abc").encode, {"text": "cab"}, {"text": NO_TEXT | st.just("abd")}),
    Case(
        "decode",
        CharTokenizer("abc").decode,
        {"ids": [2, 0]},
        {"ids": st.sampled_from([[3], [-1], [0.5], [math.nan], ["a"], "ab", None, 1.5, [None], [10**30]])},
    ),
    Case(
        "BytePairTokenizer.train",
        BytePairTokenizer.train,
        {"text": "abab", "size": 257},
        {"text": NO_TEXT | st.sampled_from(["", "a\udc80"]), "size": no_whole(257, 258)},
    ),
    Case(
        "load_text",
        load_text,
        {"path": ROOT / "README.md"},
        {"path": st.sampled_from([3, math.nan, b"README.md", ["a"], "nowhere.txt", "", "a\0b", ROOT])},
    ),
    Case(
        "Sizes",
        Sizes,
        {
            "family": "llama",
            "layers": 2,
            "heads": 4,
            "width": 8,
            "kv_heads": 2,
            "hidden": 8,
            "length": 5,
            "dropout": 0.1,
        },
        {
            **dict.fromkeys(("layers", "heads", "width"), NO_SIZE),
            **dict.fromkeys(("kv_heads", "hidden", "length"), NO_COUNT),
            "family": no_choice("gpt", "llama"),
            "dropout": NO_SHARE,
        },
        also={"heads": 3, "kv_heads": 3, "length": 65},
    ),
    Case(
        "PlannedModel",
        lambda **rest: planned(model=PlannedModel(**rest)),
        {"layers": 2, "heads": 4, "width": 8, "hidden": 8, "vocabulary": 9, "context": 5, "batch": 4, "flash": True},
        {
            **dict.fromkeys(("heads", "width", "hidden", "vocabulary", "context"), but(no_whole(1, 10**7), is_none)),
            "layers": but(no_whole(1, 10_000), is_none),
            "batch": but(no_whole(1, 100_000), is_none),
            "flash": NO_FLAG,
        },
        also={"heads": 3, "model": "nosuchmodel"},
    ),
    Case(
        "PlannedMachine",
        lambda **rest: planned(machine=PlannedMachine(**rest)),
        {"machine": "a100", "ranks": 4, "per_host": 2, "memory_gb": 1, "gflops": 1.5, "bandwidth_gb": 2.0}
        | {"latency_us": 0, "latency_between_us": 3.5, "bandwidth_between_gb": 0.1, "measure": False},
        {
            "machine": no_choice("laptop", "a100", "h100"),
            **dict.fromkeys(("ranks", "per_host"), but(no_whole(1, 2**16), is_none)),
            **dict.fromkeys(("memory_gb", "gflops", "bandwidth_gb", "bandwidth_between_gb"), NO_FIGURE),
            **dict.fromkeys(("latency_us", "latency_between_us"), NO_LATENCY),
            "measure": NO_FLAG,
        },
        also={"host_memory_gb": 1.0, "measure": True},
    ),
    Case(
        "PlannedStrategy",
        lambda **rest: planned(strategy=PlannedStrategy(**rest)),
        {"dp": 2, "pp": 1, "tp": 2, "zero": 1, "accumulate": 2, "recompute": 1, "schedule": "1f1b"},
        {
            **dict.fromkeys(("dp", "pp", "tp"), but(no_whole(1, 2**16), is_none)),
            "zero": but(no_whole(0, 3), is_none),
            "accumulate": NO_OPTIONAL_SIZE,
            "recompute": but(no_whole(0, 1), is_none),
            "schedule": no_choice("naive", "gpipe", "1f1b", "interleaved", "zb-h1").filter(lambda x: x is not None),
        },
        also={"dp": 1, "tp": 3, "precision": ("fp8",)},
    ),
    Case(
        "Plan",
        lambda **rest: Plan(**rest).check_output(),
        {"top": 3, "list": False, "published": False, "out": None},
        {"top": NO_SIZE, "list": NO_FLAG, "published": NO_FLAG, "out": NO_PATH},
    ),
    Case(
        "cross_entropy",
        loss,
        {"denominator": 2},
        {"denominator": st.sampled_from([0, -1, -0.5, math.nan])},
        (UserError, ValueError),
    ),
]


def pairs() -> list[Any]:
    return [pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.bad]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_good_arguments(case: Case) -> None:
    """The valid arguments are accepted; otherwise the refusals below would prove nothing."""
    case.call(**case.good)


def test_every_schedule_is_tried() -> None:
    public = {name for name, value in vars(lr_schedules).items() if inspect.isfunction(value) and name[0] != "_"}
    ours = {name for name in public if getattr(lr_schedules, name).__module__ == lr_schedules.__name__}
    assert SCHEDULES.keys() == ours, "SCHEDULES needs a row per schedule: valid arguments, and values invalid together"
    for case in map(schedule_case, SCHEDULES):
        assert inspect.signature(case.call).parameters.keys() - case.good.keys() <= {"three_phases"}


def refused(case: Case, name: str, value: Any) -> None:
    with pytest.raises(case.error) as caught:
        case.call(**{**case.good, name: value})
    said = str(caught.value)
    assert names(said, name, value), f"{said!r} names neither {name} nor {value!r}"


def names(said: str, name: str, value: Any) -> bool:
    """Return whether the message contains the argument's name, its value, or the wrong part of the value."""
    parts = value if isinstance(value, (list, tuple)) else ()
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) is not None or any(
        repr(part) in said or str(part) in said or shown(part) in said for part in (value, *parts)
    )


@pytest.mark.parametrize(("case", "name"), pairs())
@settings(max_examples=20)
@given(data=st.data())
def test_bad_arguments(case: Case, name: str, data: st.DataObject) -> None:
    refused(case, name, data.draw(case.bad[name]))


@pytest.mark.parametrize(("case", "name"), pairs())
def test_borders(case: Case, name: str) -> None:
    for value in BORDERS.get(case.bad[name], ()):
        refused(case, name, value)


@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.also]
)
def test_arguments_that_cannot_be_together(case: Case, name: str) -> None:
    """Each argument is valid alone, but too large for a machine or inconsistent with the others."""
    refused(case, name, case.also[name])


# Settings of a run ----------------------------------------------------------------------------------------------------

NO_OPTIONAL_COUNT = but(NO_COUNT, is_none)
TINY = TrainConfig(
    ModelOptions(layers=1, heads=2, width=4, context=4),
    DataOptions(batch=4, text=ROOT / "README.md"),
    OptimizerOptions(steps=5, warmup=2),
)
SETTINGS: dict[str, dict[str, Values]] = {
    "model": {
        **dict.fromkeys(("layers", "heads", "width", "context"), NO_SIZE),
        "positions": NO_OPTIONAL_SIZE,
        "dropout": NO_SHARE, "tied": NO_FLAG, "dtype": no_choice("float32", "float64"), "epsilon": NEGATIVE,
    },
    "data": {
        "text": NO_PATH, "tokenizer": NO_PATH, "characters": NO_TEXT.filter(lambda x: x is not None), "batch": NO_SIZE,
        "validation": no_number(lambda x: 0 < x < 1),
    },
    "optimizer": {
        "steps": NO_SIZE, "warmup": NO_OPTIONAL_COUNT, "lr": NEGATIVE, "lr_floor": NEGATIVE, "weight_decay": NEGATIVE,
        "beta2": NO_SHARE, "clip": NEGATIVE, "lr_schedule": no_choice(*get_args(LearningRates)),
        "lr_gamma": NO_GAMMA, "lr_every": NO_OPTIONAL_SIZE, "lr_power": NOT_POSITIVE, "lr_factor": NO_SIZE,
    },
    "parallel": {
        "dp": NO_OPTIONAL_SIZE, "tp": NO_SIZE, "pp": NO_SIZE, "comm": no_choice("mpi", "ring"), "accumulate": NO_SIZE,
        "memory_mb": but(NOT_POSITIVE, is_none),
    },
    "strategy": {
        "zero": no_whole(0, 3), "reduce": no_choice("bucketed", "naive", "overlap"), "bucket_mb": NOT_POSITIVE,
        "recompute": NO_COUNT, "chunks": NO_SIZE, "grad_dtype": no_choice("full", "fp16", "bf16"),
        "schedule": no_choice("naive", "gpipe", "1f1b", "interleaved", "zb-h1"),
        "owners": no_choice("elements", "parameters"),
        "reduce_once": NO_FLAG, "prefetch": NO_FLAG, "sp": NO_FLAG, "check": NO_FLAG,
    },
    "precision": {
        "precision": no_choice("fp32", "fp16", "bf16"), "half_weights": NO_FLAG, "keep_fp32": NO_TEXT,
        "adaptive": NO_FLAG, "scaling": no_choice("auto", "dynamic", "static", "none"), "loss_scale": NOT_POSITIVE,
        "scale_every": NO_SIZE,
    },
    "report": {
        "seed": NO_SEED, "out": NO_PATH | st.none(), "overwrite": NO_FLAG, "log_every": NO_SIZE, "val_every": NO_SIZE,
        "sample": NO_COUNT,
    },
    "checkpoints": {
        "save_every": NO_COUNT, "keep": NO_SIZE, "save_async": NO_FLAG, "resume": NO_PATH, "weights": NO_PATH,
    },
    "curves": {"tensorboard": NO_PATH},
    "tracing": {"trace": NO_PATH, "trace_from": NO_SIZE, "trace_updates": NO_SIZE},
}  # fmt: skip


def trained(group: str, name: str, value: Any) -> TextTrainer:
    options = replace(getattr(TINY, group), **{name: value})
    return TextTrainer(replace(TINY, **{group: options}), threads.world_of_one())


def test_every_setting_is_tried() -> None:
    for group, names in SETTINGS.items():
        assert names.keys() == vars(getattr(TINY, group)).keys()
    assert SETTINGS.keys() == vars(TINY).keys()
    text = trained("model", "layers", 1)
    assert [text.row(update)["step"] for update in text.updates(1)] == [1]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in SETTINGS.items() for name in names])
@settings(max_examples=12)
@given(data=st.data())
def test_bad_settings(group: str, name: str, data: st.DataObject) -> None:
    refused_setting(group, name, data.draw(SETTINGS[group][name]))


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in SETTINGS.items() for name in names])
def test_borders_of_settings(group: str, name: str) -> None:
    for value in BORDERS.get(SETTINGS[group][name], ()):
        refused_setting(group, name, value)


def refused_setting(group: str, name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        trained(group, name, value)
    assert names(str(caught.value), name.replace("_", "-"), value)


@pytest.mark.parametrize(
    ("group", "name"),
    [("model", "layers"), ("model", "width"), ("model", "context"), ("data", "batch"), ("report", "sample")],
)
def test_settings_that_no_machine_holds(group: str, name: str) -> None:
    """The settings are refused before anything is allocated, based on the machine's memory."""
    with pytest.raises(UserError, match=r"of memory; there are [\d,.]+ GiB|window"):
        trained(group, name, HUGE)


def test_the_memory_of_a_run_is_not_overestimated() -> None:
    """A refused run could not have fitted. The estimate is not far above what a real run held, by the ledger."""
    for sizes in ((65, 64, 4, 4, 128), (65, 128, 2, 8, 64), (5, 8, 1, 1, 8)):
        shape = GPTConfig(*sizes)
        model, windows = gpt(shape), 4
        assert shape.parameters == sum(math.prod(p.shape) for p in model.parameters())
        with Ledger().open() as ledger:
            reducer = in_buckets(model, 1)
            loader = TextLoader(tokens(500), shape.context, windows, 1)
            optimizer = AdamW(reducer)
            for number in range(2):
                train_step(model, loader.batch(number), reducer, optimizer, 0.1)
        estimate = memory(shape, windows) - shape.declared
        assert 0.5 * ledger.peak <= estimate <= ledger.peak


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    """The error is also raised if NaN only shows after the last update. Nothing is saved then."""
    options = OptimizerOptions(steps=2, warmup=1, lr=1e30, weight_decay=0.0)
    run = replace(TINY, optimizer=options, report=RunOptions(out=tmp_path, sample=0))
    with (
        np.errstate(all="ignore"),
        pytest.raises(UserError, match=r"the loss is nan .*--lr than 1e\+30"),
    ):
        TextTrainer(run, threads.world_of_one()).fit()
    assert not (tmp_path / "model.safetensors").exists()


# Ranks ----------------------------------------------------------------------------------------------------------------

ARRAY = np.ones(4)
NO_RANK = no_whole(0, 1)
TALK: dict[str, Callable[[Any, Any], Any]] = {
    "broadcast": lambda world, root: world.broadcast(ARRAY.copy(), root, TAG),
    "send": lambda world, to: world.send(ARRAY, to, TAG),
    "receive": lambda world, source: world.receive(ARRAY.copy(), source, TAG),
}
ARRAYS: dict[str, Callable[[Any, Any], Any]] = {
    "all_reduce": lambda world, x: world.all_reduce(x, TAG),
    "reduce_scatter": lambda world, x: world.reduce_scatter(x, TAG),
    "all_gather": lambda world, x: world.all_gather(x, TAG),
    "broadcast": lambda world, x: world.broadcast(x, 0, TAG),
    "send": lambda world, x: world.send(x, 0, TAG),
    "receive": lambda world, x: world.receive(x, 0, TAG),
}
WORLDS = pytest.mark.parametrize("kind", [lambda world: world, RingCommunicator], ids=["threads", "ring"])


@WORLDS
@pytest.mark.parametrize("name", TALK)
@settings(max_examples=15)
@given(rank=NO_RANK)
def test_ranks_that_do_not_exist(kind: Callable, name: str, rank: Any) -> None:
    with pytest.raises(ValueError, match=r"rank .* does not exist") as caught:
        everybody(lambda world: TALK[name](kind(world), rank))
    assert str(rank) in str(caught.value)


@WORLDS
@pytest.mark.parametrize("name", ["send", "receive"])
@settings(max_examples=15)
@given(number=NO_COUNT)
def test_message_numbers_that_are_none(kind: Callable, name: str, number: Any) -> None:
    """A negative number is not passed on: -1 is MPI's wildcard for any number."""
    with pytest.raises(ValueError, match="number"):
        everybody(lambda world: getattr(kind(world), name)(ARRAY.copy(), 0, TAG, number))


@WORLDS
@pytest.mark.parametrize("name", ARRAYS)
@settings(max_examples=10)
@given(x=st.sampled_from([None, 3, 2.5, "ab", [1.0, 2.0], np.float64(3), np.array(["a"]), np.array([None])]))
def test_what_is_no_array(kind: Callable, name: str, x: Any) -> None:
    with pytest.raises(TypeError, match="array") as caught:
        everybody(lambda world: ARRAYS[name](kind(world), x))
    assert type(x).__name__ in str(caught.value) or str(x.dtype) in str(caught.value)


@WORLDS
@pytest.mark.parametrize("op", ["min", "", None, 3, ["sum"]], ids=str)
def test_operations_that_do_not_exist(kind: Callable, op: Any) -> None:
    with pytest.raises(ValueError, match="allowed: 'sum', 'max'"):
        everybody(lambda world: kind(world).all_reduce(ARRAY.copy(), TAG, op))


@WORLDS
@pytest.mark.parametrize("ranks", [[], [0, 0, 1], [0, 1, 2], [0, -1], [1.0, 0], "01", None, 3, [None]], ids=str)
def test_groups_that_cannot_be(kind: Callable, ranks: Any) -> None:
    with pytest.raises(ValueError, match="ranks"):
        everybody(lambda world: kind(world).subgroup(ranks))


def test_a_group_without_the_one_who_asks() -> None:
    with pytest.raises(ValueError, match=r"rank 1 .*\[0\]"):
        everybody(lambda world: world.subgroup([0]))


def test_more_threads_than_the_machine_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads already started do not wait for the missing ones forever."""
    started: list[threading.Thread] = []

    def start(thread: threading.Thread, begin: Callable = threading.Thread.start) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(UserError, match=r"size is 5.* only 3 threads"):
        threads.run(5, lambda world: world.barrier())
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


# The process ----------------------------------------------------------------------------------------------------------


def process(*command: str, **environment: str) -> tuple[int, str]:
    """Return (status, output) of a process."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("command", ["train", "sample", "--help"])
@pytest.mark.parametrize("backend", ["torch", ""])
def test_a_backend_that_does_not_exist(backend: str, command: str) -> None:
    status, said = process(sys.executable, "-m", "minitrain", command, MINITRAIN_BACKEND=backend)
    assert status == 2
    assert said == f"minitrain: error: MINITRAIN_BACKEND is {backend!r}; allowed: 'numpy', 'cupy'\n"


def test_a_backend_that_does_not_exist_in_a_program() -> None:
    """A program that imports minitrain gets an exception that it can catch."""
    program = "try: import minitrain\nexcept Exception as e: print(type(e).__name__, e)"
    status, said = process(sys.executable, "-c", program, MINITRAIN_BACKEND="torch")
    assert status == 0 and said.startswith("UserError MINITRAIN_BACKEND is 'torch'")


def test_a_debug_mode_that_does_not_exist() -> None:
    status, said = process(sys.executable, "-m", "minitrain", "--help", MINITRAIN_DEBUG="yes")
    assert (status, said) == (2, "minitrain: error: MINITRAIN_DEBUG is 'yes'; allowed: '0', '1'\n")


@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
def test_a_backend_that_does_not_exist_is_told_once() -> None:
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "minitrain", "train"]
    status, said = process(*command, MINITRAIN_BACKEND="torch")
    assert status == 2 and said.count("minitrain: error") == 1 and "Traceback" not in said, said


@pytest.mark.parametrize("value", ["x", "", "1.5", "-1"])
def test_a_launcher_that_talks_nonsense(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", value)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
    with pytest.raises(UserError, match="PMI_RANK"):
        mpirun.launched()


def test_the_memory_of_this_machine() -> None:
    assert 2**28 < errors.memory_of_machine() < 2**50


# Messages -------------------------------------------------------------------------------------------------------------


LONG: list[Any] = [10**5000, -(10**5000), [10**5000], {1: 10**5000}, ("x" * 1000,) * 10, "x" * 10**6, np.ones(10**6)]


@pytest.mark.parametrize("value", [*LONG, list(range(10**6))], ids=lambda value: type(value).__name__)
def test_any_value_is_shown_in_a_line(value: Any) -> None:
    """Python itself refuses to print an integer of more than 4,300 digits."""
    assert 0 < len(shown(value)) <= 600 and "\n" not in shown(value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: lr_schedules.anneal(0, [(3, "x" * 10**6)] * 10**4),  # type: ignore[list-item]
        lambda: lr_schedules.reduce_on_plateau("x" * 10**6, peak=0.1),  # type: ignore[arg-type]
        lambda: load_text([1] * 10**6),  # type: ignore[arg-type]
        lambda: rng.key(1, [1] * 10**6),  # type: ignore[arg-type]
        lambda: GPTConfig(5, tied="x" * 10**6),  # type: ignore[arg-type]
        lambda: StaticPolicy("mixed_float16", {"x" * 10**6: "float8"}),
        lambda: Bucket([parameter()] * 10**4, threads.world_of_one()),
        lambda: replace(TINY, report=RunOptions(out="x" * 10**6)).check_each(),  # type: ignore[arg-type]
    ],
)
def test_a_message_has_an_end_whatever_is_given(call: Callable[[], object]) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value)) < 1500
