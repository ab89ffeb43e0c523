"""Options of a training run, in groups. A field's docstring is its help text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .. import lr_schedules
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError
from ..parallel.strategy import HALVES, Owners, Strategy
from ..precision import DynamicPolicy, DynamicScaler, Precision, Scaler, StaticPolicy, StaticScaler

LearningRates = Literal[
    "cosine", "linear", "polynomial", "exponential", "inverse-time", "step", "one-cycle", "cosine-restarts", "constant"
]


@dataclass(frozen=True)
class ModelOptions:
    """The model: a GPT. With --from, its sizes are those of the weights."""

    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; their number must divide --width."""
    width: int = 128
    """Features per position between the blocks (D)."""
    context: int = 64
    """Tokens the model sees at once (T): characters, unless there is a --tokenizer. With --from: all of its positions,
    or less."""
    positions: int | None = None
    """Longest context of the model, if it is more than --context: its table of positions. None: --context."""
    dropout: float = 0.0
    """Probability of dropping an activation in training."""
    tied: bool = True
    """Use the token embedding as the weight of the output layer."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of parameters and activations."""
    epsilon: tyro.conf.Suppress[float] = 1e-5  # of the layer norms


@dataclass(frozen=True)
class DataOptions:
    """The text."""

    text: Path | None = None
    """UTF-8 text file to train on. None: the bundled plays."""
    tokenizer: Path | None = None
    """Byte pairs instead of characters: a tokenizer.json, or a folder with one, or with vocab.json and merges.txt."""
    characters: tyro.conf.Suppress[str | None] = None  # the vocabulary of characters; None: those of the text
    batch: int = 24
    """Windows of text per update, over all ranks (B)."""
    validation: float = 0.1
    """Fraction of the text, at its end, held out for validation."""


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW, its learning rate, and clipping."""

    steps: int = 1000
    """Number of updates."""
    lr: float = 3e-3
    """Peak learning rate, reached at the end of the warm-up."""
    lr_schedule: LearningRates = "cosine"
    """Learning-rate schedule after the warm-up. one-cycle has its own warm-up, and also varies Adam's beta1."""
    lr_floor: float = 1e-4
    """Lowest learning rate. Not used by constant, nor by one-cycle, which ends far below it."""
    lr_gamma: float = 0.5
    """exponential, step: factor applied to the learning rate every --lr-every updates."""
    lr_every: int | None = None
    """exponential, step: updates per --lr-gamma; inverse-time: updates to half the peak; cosine-restarts: first period.
    None: 100, or a third of the updates after the warm-up if that is less."""
    lr_power: float = 2.0
    """polynomial: the exponent; above 1, the rate falls faster at the start, below 1 at the end."""
    lr_factor: int = 2
    """cosine-restarts: length of each period, relative to the previous one."""
    warmup: int | None = None
    """Updates over which the learning rate rises; not for one-cycle. None: a tenth of --steps, at most 100."""
    weight_decay: float = 0.1
    """Weight decay: an update shrinks weights by this fraction times the learning rate."""
    beta2: float = 0.99
    """Decay rate of Adam's average of squared gradients."""
    clip: float = 1.0
    """Clip the gradient to this norm; 0: no clipping."""

    def schedule(self) -> lr_schedules.Schedule:
        """Return the learning rate as a function of the update number."""
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
        """Return the number of warm-up updates."""
        return min(100, self.steps // 10) if self.warmup is None else self.warmup

    def momentum(self) -> lr_schedules.Schedule | None:
        """Return Adam's beta1 as a function of the update number, or None if it is constant."""
        return partial(lr_schedules.one_cycle_momentum, updates=self.steps) if self.lr_schedule == "one-cycle" else None


@dataclass(frozen=True)
class ParallelOptions:
    """How the ranks divide the work."""

    dp: int | None = None
    """Ranks that divide the batch (data parallel). None: all ranks, divided by --pp and --tp."""
    tp: int = 1
    """Ranks that divide each matrix of the model (tensor parallel)."""
    pp: int = 1
    """Ranks that divide the layers (pipeline parallel); use micro-batches with it (--accumulate)."""
    comm: Literal["mpi", "ring"] = "mpi"
    """MPI's collectives, or minitrain's ring of sends and receives."""
    accumulate: int = 1
    """Micro-batches per update on each rank."""
    memory_mb: float | None = None
    """Memory limit per rank, in MiB above what it starts with, to see what fits. None: no limit."""


@dataclass(frozen=True)
class StrategyOptions(Strategy):
    """How the model, gradients and activations are stored and sent."""

    schedule: Literal["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe"] = "1f1b"
    """Order of the forwards and backwards in a pipeline."""
    owners: tyro.conf.Suppress[Owners] = "elements"
    check: tyro.conf.Suppress[bool] = True

    def label(self, name: str, value: Any = None) -> str:
        """Return the field as written on the command line: --reduce-once, or --zero 2."""
        flag = "--" + name.replace("_", "-")
        return flag if value is None or value is True else f"{flag} {value}"


def make_mesh(world: Communicator, p: ParallelOptions) -> Mesh:
    """Return the mesh dp x pp x tp. Raise UserError if it does not match the number of ranks."""
    n = p.pp * p.tp
    if world.size % n and p.dp is None:
        given = (
            f"--pp {p.pp} x --tp {p.tp}" if p.pp > 1 and p.tp > 1 else f"--tp {p.tp}" if p.tp > 1 else f"--pp {p.pp}"
        )
        raise UserError(f"{given} does not divide the {world.size} ranks: run mpirun -n {n}, or a multiple")
    divided = {axis: ranks for axis, ranks in (("pp", p.pp), ("tp", p.tp)) if ranks > 1}
    return Mesh(world, dp=p.dp or world.size // n, **divided)


@dataclass(frozen=True)
class PrecisionOptions:
    """Mixed precision: 16 bits where they suffice."""

    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of activations and matrix products; sums, losses and the optimizer's weights stay in 32 bits."""
    half_weights: bool = False
    """Store weights and gradients in 16 bits too; the optimizer keeps 32-bit master weights."""
    keep_fp32: str = ""
    """Layers to keep in 32 bits: comma-separated patterns of paths, such as "head,blocks.*.mlp"."""
    adaptive: bool = False
    """Cast per operation, and move a layer that keeps overflowing back to 32 bits for a while."""
    scaling: Literal["auto", "dynamic", "static", "none"] = "auto"
    """Loss scaling. auto: dynamic if --precision or --grad-dtype is fp16, otherwise none."""
    loss_scale: float = 65536.0
    """Static loss scale, or initial scale if dynamic."""
    scale_every: int = 2000
    """Good updates in a row after which the dynamic scale doubles."""

    def policy(self) -> Precision | None:
        """Return the policy that chooses dtypes, or None for fp32."""
        if self.precision == "fp32":
            return None
        dtype = HALVES[self.precision]
        if self.adaptive:
            return DynamicPolicy(dtype)
        kept = [pattern.strip() for pattern in self.keep_fp32.split(",") if pattern.strip()]
        return StaticPolicy(f"mixed_{dtype}", dict.fromkeys(kept, "float32"))

    def scaler(self, grad_dtype: str = "full") -> Scaler:
        """Return the loss scaler. grad_dtype: how gradients are sent."""
        auto = "dynamic" if "fp16" in (self.precision, grad_dtype) else "none"
        how = auto if self.scaling == "auto" else self.scaling
        if how == "dynamic":
            return DynamicScaler(self.loss_scale, interval=self.scale_every, floor=min(1.0, self.loss_scale))
        return StaticScaler(self.loss_scale) if how == "static" else Scaler()

    def check(self, dtype: str, grad_dtype: str) -> None:
        """Raise UserError for options that conflict. dtype: of the model. grad_dtype: how gradients are sent."""
        more = {"--half-weights": self.half_weights, "--adaptive": self.adaptive, f"--keep-fp32 {self.keep_fp32}": True}
        given = [name for name, value in more.items() if value and name != "--keep-fp32 "]
        if self.precision == "fp32" and given:
            raise UserError(f"{given[0]} needs 16 bits, but --precision is fp32; give --precision fp16 or bf16")
        if dtype != "float32" and (self.precision != "fp32" or grad_dtype != "full"):
            raise UserError(f"--precision and --grad-dtype need a float32 model, but --dtype is {dtype}; leave it out")
        if self.adaptive and self.keep_fp32:
            raise UserError(
                "--adaptive finds the layers that need 32 bits, --keep-fp32 names them; give one of the two"
            )


@dataclass(frozen=True)
class RunOptions:
    """Seed, reports and files."""

    seed: int = 1
    """Seed of initial values, data order and dropout, which do not depend on the number of ranks."""
    out: Path = Path("build/run")
    """Folder for log.jsonl, checkpoints and model.safetensors. An earlier run in build/run moves to build/run.1 etc."""
    overwrite: bool = False
    """Replace an earlier run in the folder."""
    log_every: int = 50
    """Updates between progress lines."""
    val_every: int = 250
    """Updates between validations; only the one at the end uses the whole validation text."""
    sample: int = 400
    """Tokens to generate at the end; 0: none."""


@dataclass(frozen=True)
class TraceOptions:
    """Record what each rank does and when: a file for the viewer Perfetto, a picture, and a chart in the terminal."""

    trace: Path | None = None
    """Folder for the trace. None: record nothing. An earlier trace in it is replaced."""
    trace_from: int = 3
    """The first update to record, counted from the start of this process; earlier if the run is shorter. The first two
    also make the optimizer's state and check the model."""
    trace_updates: int = 3
    """Number of updates to record."""


@dataclass(frozen=True)
class CurveOptions:
    """Curves to watch while the run goes on."""

    tensorboard: Path | None = None
    """Folder for curves: the numbers of log.jsonl, the speed and the memory, for TensorBoard. Needs tensorboardX.
    A resumed run continues its curves."""


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints, from which a run continues with the same bits.

    A run also saves on SIGTERM and SIGINT (Ctrl-C), and before a loss that is not finite.
    Open MPI's mpirun kills its ranks 0.3 s after a signal: send it to the ranks, or rely on --save-every."""

    save_every: int = 250
    """Updates between checkpoints; the last update is saved too. 0: save none, not even on a signal."""
    keep: int = 2
    """Complete checkpoints to keep."""
    save_async: bool = False
    """Write in the background while training goes on, from a copy of this rank's share."""
    resume: Path | None = None
    """Continue the run in this folder, or from this checkpoint; without a name, the run in --out.
    Its options hold where none are given. The number of ranks may be another one."""
    weights: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start from these weights: a model file, the folder of a run, of export or import, or of a GPT-2 as Hugging Face
    saves it, or a checkpoint. The model has their sizes and tokenizer; by default, --lr is 1e-4 and --lr-floor 1e-5."""
