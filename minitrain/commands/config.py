"""All options of a training run, and the checks made before it starts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from ..errors import UserError, check_choice, check_memory, check_number, check_whole, shown
from ..models import GPTConfig
from ..parallel.strategy import Strategy
from ..train.generate import check_length
from .options import (
    CheckpointOptions,
    CurveOptions,
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    ParallelOptions,
    PrecisionOptions,
    RunOptions,
    StrategyOptions,
    TraceOptions,
)

# Allowed values of options. Integers not listed must be at least 1, floats at least 0.
LEAST = {"seed": -(2**63), "warmup": 0, "sample": 0, "save_every": 0}
OF_ONE_START = (  # others in a run that continues
    *("out", "overwrite", "resume", "weights", "tokenizer", "characters"),
    *("trace", "trace_from", "trace_updates"),
)
ALLOWED = {
    "loss_scale": "above 0",
    "dropout": "at least 0 and less than 1",
    "beta2": "at least 0 and less than 1",
    "memory_mb": "above 0",
    "lr_gamma": "above 0 and at most 1",
    "lr_power": "above 0",
    "validation": "between 0 and 1",
}


def memory(
    model: GPTConfig,
    windows: int,
    strategy: Strategy = Strategy(),
    parallel: ParallelOptions | None = None,
    ranks: int = 1,
    length: int | None = None,
) -> int:
    """Return a lower bound on the bytes that training needs on a rank.

    It counts parameters, Adam's two moments, and the larger of the activations of a micro-batch of `windows` windows
    and the gradients, which replace them during backward. Under ZeRO a rank has its shard of each, and at stage 3 one
    whole unit; recomputed units keep no activations; tensor and pipeline parallel divide most of this. length: of a
    window, if it is shorter than the model's context.
    """
    p, zero = parallel or ParallelOptions(), strategy.zero
    T, D, P, item = length or model.context, model.width, model.parameters, np.dtype(model.dtype).itemsize
    layers = min(model.layers, strategy.recompute or model.layers)
    kept = windows * T * (layers * (16 * D + model.heads * T) + model.vocabulary)
    states, gradients, parameters = (P // ranks if zero >= stage else P for stage in (1, 2, 3))
    unit = max(12 * D * D, model.vocabulary * D) if zero == 3 else 0
    return model.declared + item * (parameters + unit + 2 * states + max(kept, gradients)) // (p.tp * p.pp)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    strategy: StrategyOptions = field(default_factory=StrategyOptions)
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    report: RunOptions = field(default_factory=RunOptions)
    checkpoints: tyro.conf.Suppress[CheckpointOptions] = field(default_factory=CheckpointOptions)  # only for train
    curves: tyro.conf.Suppress[CurveOptions] = field(default_factory=CurveOptions)  # only for train
    tracing: tyro.conf.Suppress[TraceOptions] = field(default_factory=TraceOptions)  # only for train

    def check(self, ranks: int) -> None:
        """Raise UserError, on every rank, for options that conflict. ranks: how many divide the batch.

        `Strategy.check_on` checks the fields of the strategy.
        """
        check_length(self.report.sample)
        self.precision.check(self.model.dtype, self.strategy.grad_dtype)
        o, d, p, m = self.optimizer, self.data, self.parallel, self.model
        if m.positions is not None and m.positions < m.context:
            raise UserError(f"--context is {m.context}, but the model has {m.positions} positions; give a smaller one")
        if self.checkpoints.weights is not None and self.checkpoints.resume is not None:
            raise UserError("--resume continues a run, and --from starts one: give one of the two")
        if o.warm_updates() >= o.steps and o.lr_schedule != "one-cycle":
            raise UserError(
                f"--warmup is {o.warmup}, which leaves none of {o.steps} --steps after it; give a smaller warm-up"
            )
        if o.steps < 3 and o.lr_schedule == "one-cycle":
            raise UserError(f"--steps is {o.steps}, but --lr-schedule one-cycle has three phases; give 3 steps or more")
        if o.lr * o.weight_decay >= 1:
            raise UserError(
                f"--lr {o.lr} times --weight-decay {o.weight_decay} is {o.lr * o.weight_decay}: an update would "
                "remove the whole of every weight; reduce one of the two"
            )
        if d.batch < ranks * p.accumulate:
            raise UserError(
                f"--batch is {d.batch}, but {ranks} ranks with {p.accumulate} micro-batches each need "
                f"at least {ranks * p.accumulate}, one window each: give a larger --batch or a smaller --accumulate"
            )

    def check_each(self) -> None:
        """Raise UserError for the first option whose type or value is invalid by itself."""
        self.strategy.check_each()
        named = (self.model, self.data, self.optimizer, self.parallel, self.precision, self.report)
        for group in (*named, self.checkpoints, self.tracing, self.curves):
            for key, hint in get_type_hints(type(group)).items():
                name, value = "--" + key.replace("_", "-"), getattr(group, key)
                if value is None and type(None) in get_args(hint):
                    continue
                if hint is int or int in get_args(hint):
                    check_whole(name, value, LEAST.get(key, 1))
                elif hint is float or float in get_args(hint):
                    check_number(name, value, ALLOWED.get(key, "at least 0"))
                elif get_origin(hint) is Literal:
                    check_choice(name, value, get_args(hint))
                elif not isinstance(value, hint):
                    raise UserError(f"{name} is {shown(value)}; it must be a {getattr(hint, '__name__', hint)}")

    def check_memory(self, model: GPTConfig, ranks: int, there: float) -> None:
        """Raise UserError if one rank of the run needs more than `there` bytes of memory."""
        windows, given = -(-self.data.batch // (ranks * self.parallel.accumulate)), self.parallel.memory_mb
        T = self.model.context
        check_memory(
            f"a rank with {model.layers} layers of width {model.width} and {windows} windows of {T}",
            memory(model, windows, self.strategy, self.parallel, ranks, T),
            "give fewer --layers, a smaller --width, --context or --batch, more micro-batches with --accumulate, "
            "--recompute 1, or more ranks with --zero 3" + ("" if given is None else "; or a larger --memory-mb"),
            there,
        )

    def gpt(self, vocabulary: int) -> GPTConfig:
        """Return the model's configuration for a vocabulary of this size."""
        m = self.model
        positions = m.positions or m.context
        sizes = (m.layers, m.heads, m.width, m.dropout, m.tied)
        return GPTConfig(vocabulary, positions, *sizes, dtype=m.dtype, epsilon=m.epsilon)

    def plain(self) -> dict[str, Any]:
        """Return the options as dictionaries of numbers and strings, for a file; without those of one start only."""
        plain = lambda value: str(value) if isinstance(value, Path) else value
        return {
            name: {key: plain(value) for key, value in options.items() if key not in OF_ONE_START}
            for name, options in asdict(self).items()
        }
