"""All settings of a run, as dataclasses: the command line is made from them, and a checkpoint keeps them.

A field's docstring is its help text.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..models import GPTConfig


@dataclass(frozen=True)
class ModelOptions:
    """The model: a GPT on characters."""

    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; they must divide the width."""
    width: int = 128
    """Numbers per position between the blocks (D)."""
    context: int = 64
    """Characters the model sees at once (T)."""
    dropout: float = 0.0
    """Probability with which an activation is dropped in training."""
    tied: bool = True
    """Use the token table as the classifier's weight."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of parameters and activations."""


@dataclass(frozen=True)
class DataOptions:
    """The text."""

    text: Path | None = None
    """A UTF-8 text file to learn from; the bundled plays unless given."""
    batch: int = 24
    """Windows of text per update, over all ranks together (B)."""
    validation: float = 0.1
    """Last part of the text that is kept for validation."""


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW, its learning rate, and clipping."""

    steps: int = 1000
    """Updates."""
    lr: float = 3e-3
    """Largest learning rate, reached at the end of the warm-up."""
    lr_floor: float = 1e-4
    """Learning rate at the end of the cosine."""
    warmup: int = 100
    """Updates over which the learning rate rises."""
    weight_decay: float = 0.1
    """Share of a weight that is taken away per update, times the learning rate."""
    beta2: float = 0.99
    """How long Adam remembers squared gradients."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""


@dataclass(frozen=True)
class ParallelOptions:
    """How the work is divided."""

    dp: int | None = None
    """Ranks that divide the batch; all that mpirun started unless given."""
    reduce: Literal["bucketed", "naive", "overlap"] = "bucketed"
    """Gradients are added up in buckets, one by one after backward, or in buckets while backward goes on."""
    comm: Literal["mpi", "ring"] = "mpi"
    """Collectives of MPI, or our own ring made of send and receive."""
    bucket_mb: float = 1.0
    """Size of a bucket, in MiB."""
    accumulate: int = 1
    """Micro-batches per update and rank."""


@dataclass(frozen=True)
class RunOptions:
    """Seed, reports, files."""

    seed: int = 1
    """Of initial values, data order and dropout; the same numbers on any number of ranks."""
    out: Path = Path("build/run")
    """Folder for log.jsonl and model.safetensors."""
    log_every: int = 50
    """Updates between two lines of progress."""
    val_every: int = 250
    """Updates between two validations; the whole validation text is used at the end."""
    sample: int = 400
    """Characters to write at the end."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    report: RunOptions = field(default_factory=RunOptions)

    def check(self, ranks: int) -> None:
        """Raises UserError for the first value that cannot work, the same on every rank."""
        o, d, p, r = self.optimizer, self.data, self.parallel, self.report
        for name, value in (
            ("--steps", o.steps), ("--batch", d.batch), ("--accumulate", p.accumulate),
            ("--log-every", r.log_every), ("--val-every", r.val_every),
        ):  # fmt: skip
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        for name, number in (
            ("--lr", o.lr), ("--lr-floor", o.lr_floor), ("--weight-decay", o.weight_decay), ("--clip", o.clip),
            ("--warmup", o.warmup), ("--sample", r.sample),
        ):  # fmt: skip
            if not (math.isfinite(number) and number >= 0):
                raise UserError(f"{name} is {number}; it must be a number of at least 0")
        if not 0 <= o.beta2 < 1:
            raise UserError(f"--beta2 is {o.beta2}; it must be at least 0 and less than 1")
        if o.warmup >= o.steps:
            raise UserError(
                f"--warmup is {o.warmup}, which leaves nothing of the {o.steps} --steps; give a smaller warm-up"
            )
        if not (math.isfinite(p.bucket_mb) and p.bucket_mb > 0):
            raise UserError(f"--bucket-mb is {p.bucket_mb}; it must be above 0")
        if d.batch < ranks * p.accumulate:
            raise UserError(
                f"--batch is {d.batch}, but {ranks} ranks with {p.accumulate} micro-batches each need "
                f"at least {ranks * p.accumulate}, one window each"
            )

    def gpt(self, vocabulary: int) -> GPTConfig:
        """The model's sizes."""
        m = self.model
        return GPTConfig(vocabulary, m.context, m.layers, m.heads, m.width, m.dropout, m.tied, dtype=m.dtype)

    def plain(self) -> dict[str, Any]:
        """As dictionaries of numbers and strings, for a file."""
        return {
            name: {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
            for name, options in asdict(self).items()
        }
