"""Options of a training run, in groups. A field's docstring is its help text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from .. import lr_schedules
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError
from ..parallel.strategy import HALVES, Owners, Strategy
from ..precision import Dynamic, DynamicScaler, Precision, Scaler, Static, StaticScaler

LearningRates = Literal[
    "cosine", "linear", "polynomial", "exponential", "inverse-time", "step", "one-cycle", "cosine-restarts", "constant"
]


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
    lr_schedule: LearningRates = "cosine"
    """How the learning rate falls after the warm-up; one-cycle rises and falls by itself, and moves Adam's beta1."""
    lr_floor: float = 1e-4
    """The learning rate ends here or stops falling here; not for one-cycle, which ends far below, and constant."""
    lr_gamma: float = 0.5
    """For exponential and step: what the learning rate is multiplied by in --lr-every updates."""
    lr_every: int | None = None
    """For exponential and step: see --lr-gamma; inverse-time: updates until half; cosine-restarts: the first period.
    100, or a third of the updates after the warm-up where these are few."""
    lr_power: float = 2.0
    """For polynomial: above 1 it falls steeply first, below 1 at the end."""
    lr_factor: int = 2
    """For cosine-restarts: how much longer each period is than the one before."""
    warmup: int | None = None
    """Updates over which the learning rate rises; not for one-cycle. A tenth of --steps, and at most 100."""
    weight_decay: float = 0.1
    """Share of a weight that is taken away per update, times the learning rate."""
    beta2: float = 0.99
    """How long Adam remembers squared gradients."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""

    def schedule(self) -> lr_schedules.Schedule:
        """The learning rate as a function of the update number."""
        if self.lr_schedule == "one-cycle":
            return partial(lr_schedules.one_cycle, peak=self.lr, updates=self.steps)
        warm = self.warm_updates()
        rest = self.steps - warm
        every = max(1, min(100, rest // 3)) if self.lr_every is None else self.lr_every
        choices: dict[str, tuple[Callable[..., float], dict[str, Any]]] = {
            "constant": (lr_schedules.constant, {}),
            "linear": (lr_schedules.linear, {"updates": rest}),
            "polynomial": (lr_schedules.polynomial, {"updates": rest, "power": self.lr_power}),
            "cosine": (lr_schedules.cosine, {"updates": rest}),
            "cosine-restarts": (lr_schedules.cosine_restarts, {"period": every, "factor": self.lr_factor}),
            "exponential": (lr_schedules.exponential, {"gamma": self.lr_gamma, "every": every}),
            "step": (lr_schedules.step, {"gamma": self.lr_gamma, "every": every}),
            "inverse-time": (lr_schedules.inverse_time, {"every": every}),
        }
        function, options = choices[self.lr_schedule]
        floor = {} if self.lr_schedule == "constant" else {"floor": min(self.lr_floor, self.lr)}
        then = partial(function, peak=self.lr, **floor, **options)
        return partial(lr_schedules.warmup, updates=warm, then=then)

    def warm_updates(self) -> int:
        """Updates of the warm-up."""
        return min(100, self.steps // 10) if self.warmup is None else self.warmup

    def momentum(self) -> lr_schedules.Schedule | None:
        """Adam's beta1 as a function of the update number; None: it stays as it is."""
        return partial(lr_schedules.one_cycle_momentum, updates=self.steps) if self.lr_schedule == "one-cycle" else None


@dataclass(frozen=True)
class ParallelOptions:
    """How the work is divided."""

    dp: int | None = None
    """Ranks that divide the batch; all that mpirun started, divided by --pp and --tp, unless given."""
    tp: int = 1
    """Ranks that divide each matrix of the model (tensor parallel); the others divide the batch."""
    pp: int = 1
    """Ranks that divide the layers (pipeline); --accumulate gives it micro-batches to work on."""
    comm: Literal["mpi", "ring"] = "mpi"
    """Collectives of MPI, or our own ring made of send and receive."""
    accumulate: int = 1
    """Micro-batches per update and rank."""
    memory_mb: float | None = None
    """Memory that each rank may use beside what it starts with, in MiB, to try what fits; no limit unless given."""


@dataclass(frozen=True)
class StrategyOptions(Strategy):
    """How the model, its gradients and its activations are held and sent."""

    schedule: Literal["naive", "gpipe", "1f1b", "interleaved", "zb-h1"] = "1f1b"
    """The order of a pipeline's forwards and backwards."""
    owners: tyro.conf.Suppress[Owners] = "elements"
    check: tyro.conf.Suppress[bool] = True

    def say(self, name: str, value: Any = None) -> str:
        """As on the command line: --reduce-once, or --zero 2."""
        flag = "--" + name.replace("_", "-")
        return flag if value is None or value is True else f"{flag} {value}"


def make_mesh(world: Communicator, p: ParallelOptions) -> Mesh:
    """The ranks as dp x pp x tp. Raises UserError when they are not as many as that."""
    n = p.pp * p.tp
    if world.size % n and p.dp is None:
        given = (
            f"--pp {p.pp} x --tp {p.tp}" if p.pp > 1 and p.tp > 1 else f"--tp {p.tp}" if p.tp > 1 else f"--pp {p.pp}"
        )
        raise UserError(f"{given} does not divide the {world.size} ranks: run mpirun -n {n}, or twice that")
    divided = {axis: ranks for axis, ranks in (("pp", p.pp), ("tp", p.tp)) if ranks > 1}
    return Mesh(world, dp=p.dp or world.size // n, **divided)


@dataclass(frozen=True)
class PrecisionOptions:
    """16 bits where they are enough."""

    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of activations and products; sums, losses and the optimizer's weights stay in 32 bits."""
    half_weights: bool = False
    """Store weights and gradients in 16 bits as well; the optimizer has the masters in 32."""
    keep_fp32: str = ""
    """Layers that stay in 32 bits: patterns of their paths between commas, such as "head,blocks.*.mlp"."""
    adaptive: bool = False
    """Cast operation by operation, and take a layer that keeps overflowing back to 32 bits for a while."""
    scaling: Literal["auto", "dynamic", "static", "none"] = "auto"
    """How the loss is scaled: auto is dynamic where --precision or --wire is fp16, and none elsewhere."""
    loss_scale: float = 65536.0
    """The constant of static scaling, the first scale of dynamic."""
    scale_every: int = 2000
    """Good updates in a row after which dynamic scaling doubles the scale."""

    def policy(self) -> Precision | None:
        """What chooses dtypes, if anything does."""
        if self.precision == "fp32":
            return None
        dtype = HALVES[self.precision]
        if self.adaptive:
            return Dynamic(dtype)
        kept = [pattern.strip() for pattern in self.keep_fp32.split(",") if pattern.strip()]
        return Static(f"mixed_{dtype}", dict.fromkeys(kept, "float32"))

    def scaler(self, wire: str = "full") -> Scaler:
        """What scales the loss. wire: how gradients travel."""
        auto = "dynamic" if "fp16" in (self.precision, wire) else "none"
        how = auto if self.scaling == "auto" else self.scaling
        if how == "dynamic":
            return DynamicScaler(self.loss_scale, interval=self.scale_every, floor=min(1.0, self.loss_scale))
        return StaticScaler(self.loss_scale) if how == "static" else Scaler()

    def check(self, dtype: str, wire: str) -> None:
        """Raises UserError for options that cannot go together. dtype: of the model. wire: how gradients travel."""
        more = {"--half-weights": self.half_weights, "--adaptive": self.adaptive, f"--keep-fp32 {self.keep_fp32}": True}
        given = [name for name, said in more.items() if said and name != "--keep-fp32 "]
        if self.precision == "fp32" and given:
            raise UserError(f"{given[0]} is about 16 bits, and --precision is fp32; give --precision fp16 or bf16")
        if dtype != "float32" and (self.precision != "fp32" or wire != "full"):
            raise UserError(f"--precision and --wire start from a float32 model, and --dtype is {dtype}; leave it out")
        if self.adaptive and self.keep_fp32:
            raise UserError(
                "--adaptive finds the layers that need 32 bits, --keep-fp32 fixes them; give one of the two"
            )


@dataclass(frozen=True)
class RunOptions:
    """Seed, reports, files."""

    seed: int = 1
    """Of initial values, data order and dropout; the same numbers on any number of ranks."""
    out: Path = Path("build/run")
    """Folder for log.jsonl and model.safetensors. A run that is in build/run is moved to build/run.1 and so on."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    log_every: int = 50
    """Updates between two lines of progress."""
    val_every: int = 250
    """Updates between two validations; the whole validation text is used at the end."""
    sample: int = 400
    """Characters to write at the end."""
