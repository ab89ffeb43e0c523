"""Options of `plan`, in groups. A field's docstring is its help text."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import tyro

from ..environment import launched
from ..errors import UserError, check_choice, check_number, check_whole, shown
from ..planner.machines import COMPUTERS, GIB, PYTHON, Computer, altered
from ..planner.presets import MODELS
from ..planner.sizes import Sizes

Precisions = Literal["fp32", "fp16", "bf16", "fp16-weights", "bf16-weights"]
Schedules = Literal["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe"]
MOST_RANKS = 65_536
MOST_LAYERS, MOST_BATCH, MOST = 10_000, 100_000, 10_000_000  # MOST: of every other size
LEAST_FIGURE, MOST_FIGURE = 1e-6, 1e9  # of a machine, in the option's unit


@dataclass(frozen=True)
class PlannedModel:
    """The model. Sizes that are not given are the preset's."""

    model: tyro.conf.Positional[str] = "minitrain"
    """Name of a preset: minitrain (the default model of train), gpt2-1.5b, gpt3-175b, megatron-530b, llama3-70b ...
    --list shows all of them."""
    layers: int | None = None
    """Transformer blocks."""
    heads: int | None = None
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values; a Llama may have fewer than --heads."""
    width: int | None = None
    """Features per position (D)."""
    hidden: int | None = None
    """Width of the feed-forward layer (F)."""
    vocabulary: int | None = None
    """Tokens in the vocabulary (V)."""
    context: int | None = None
    """Tokens in a sequence (T)."""
    batch: int | None = None
    """Sequences per update, over all ranks (B)."""
    flash: bool = False
    """Count attention as FlashAttention computes it, without keeping the scores; minitrain itself keeps them."""

    def sizes(self) -> Sizes:
        """Return the sizes of the model. Raise UserError for an unknown preset, or sizes that do not fit together."""
        check_choice("the model", self.model, tuple(MODELS))
        preset = MODELS[self.model].sizes
        names = ("layers", "heads", "kv_heads", "width", "hidden", "vocabulary", "context")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            check_whole(option(name), value, 1, MOST_LAYERS if name == "layers" else MOST)
        check_flag("flash", self.flash)
        heads, kv_heads = given.get("heads", preset.heads), given.get("kv_heads", preset.kv_heads)
        if "kv_heads" in given and preset.family == "gpt":
            raise UserError(f"--kv-heads is {kv_heads}, but {self.model} is a GPT; leave it out")
        if preset.family == "llama" and heads % kv_heads:
            raise UserError(f"--kv-heads is {kv_heads}, which does not divide the {heads} --heads")
        derived = {"length": 0}  # the context
        if "heads" in given and "kv_heads" not in given and preset.kv_heads == preset.heads:
            derived["kv_heads"] = 0  # as many as heads
        if "width" in given and "hidden" not in given:
            derived["hidden"] = max(1, round(given["width"] * preset.hidden / preset.width))
        return replace(preset, **derived | given)

    def sequences(self) -> int:
        """Return the sequences per update. Raise UserError unless it is a whole number above 0."""
        batch = MODELS[self.model].batch if self.batch is None else self.batch
        check_whole("--batch", batch, 1, MOST_BATCH)
        return batch


@dataclass(frozen=True)
class PlannedMachine:
    """The machine. What is not given is that of the preset."""

    machine: Literal["laptop", "a100", "h100"] = "laptop"
    """laptop: 4 ranks; a100, h100: hosts of 8 GPUs of 80 GB with NVLink, connected by InfiniBand."""
    ranks: int | None = None
    """Processes, one per core or GPU. None: those of one host; with --measure under mpirun, those of mpirun."""
    per_host: int | None = None
    """Ranks on a host. None: the preset's, 4 on a laptop, 8 GPUs."""
    memory_gb: float | None = None
    """Memory of a rank, in GiB, beside what Python takes (0.09). None: 2 on a laptop, 74 of the 80 of a GPU."""
    host_memory_gb: float | None = None
    """Memory of a host, in GiB, which its ranks and their Pythons share; instead of --memory-gb."""
    gflops: float | None = None
    """GFLOP/s that a rank reaches in training."""
    latency_us: float | None = None
    """Microseconds before a message inside a host moves (alpha)."""
    bandwidth_gb: float | None = None
    """GB/s between two ranks of a host, one way (1/beta)."""
    latency_between_us: float | None = None
    """Microseconds before a message between hosts moves."""
    bandwidth_between_gb: float | None = None
    """GB/s of a host to others, one way, which its ranks share."""
    measure: bool = False
    """Measure GFLOP/s, latency and bandwidth here, and plan with them: under mpirun, with the ranks that will train."""

    def computer(self) -> Computer:
        """Return the machine. Raise UserError for invalid figures."""
        check_choice("--machine", self.machine, tuple(COMPUTERS))
        check_flag("measure", self.measure)
        for name in ("memory_gb", "host_memory_gb", "gflops", "bandwidth_gb", "bandwidth_between_gb"):
            check_figure(name, getattr(self, name), "above 0")
        for name in ("latency_us", "latency_between_us"):
            check_figure(name, getattr(self, name), "at least 0")
        for name in ("ranks", "per_host"):
            if getattr(self, name) is not None:
                check_whole(option(name), getattr(self, name), 1, MOST_RANKS)
        if self.memory_gb is not None and self.host_memory_gb is not None:
            said = (
                f"--memory-gb is {self.memory_gb}, of a rank, and --host-memory-gb is {self.host_memory_gb}, of a host"
            )
            raise UserError(f"{said}; give one of the two")
        measured = ("gflops", "latency_us", "bandwidth_gb") if launched()[2] > 1 else ("gflops",)
        for name in measured if self.measure else ():
            if (value := getattr(self, name)) is not None:
                raise UserError(f"{option(name)} is {value}, but --measure measures it; give one of the two")
        scaled = lambda value, factor: None if value is None else value * factor
        computer = altered(
            COMPUTERS[self.machine],
            per_host=self.per_host,
            flops=scaled(self.gflops, 1e9),
            latency=scaled(self.latency_us, 1e-6),
            bandwidth=scaled(self.bandwidth_gb, 1e9),
            latency_between=scaled(self.latency_between_us, 1e-6),
            bandwidth_between=scaled(self.bandwidth_between_gb, 1e9),
        )
        shared = scaled(self.host_memory_gb, GIB / min(computer.per_host, self.processes(computer)))
        if shared is not None and shared <= PYTHON:
            raise UserError(f"--host-memory-gb is {self.host_memory_gb}: Python takes {PYTHON / GIB:.2f} for each rank")
        return altered(computer, memory=scaled(self.memory_gb, GIB) or (None if shared is None else shared - PYTHON))

    def processes(self, computer: Computer) -> int:
        """Return the number of ranks to plan for."""
        here = launched()[2] if self.measure else 1
        return self.ranks or (here if here > 1 else computer.per_host)


@dataclass(frozen=True)
class PlannedStrategy:
    """Limits of the search; what is not given is tried in every way."""

    precision: tuple[Precisions, ...] = ()
    """Precisions to try; with -weights, parameters and gradients are in 16 bits, too. None given: fp32 on a laptop,
    bf16-weights on GPUs."""
    dp: int | None = None
    """Ranks that divide the batch."""
    pp: int | None = None
    """Ranks that divide the layers."""
    tp: int | None = None
    """Ranks that divide every matrix."""
    zero: int | None = None
    """ZeRO stage, 0 to 3."""
    schedule: Schedules | None = None
    """Order of a pipeline's forwards and backwards."""
    accumulate: int | None = None
    """Micro-batches per update."""
    sp: bool | None = None
    """Sequence parallel: True or False."""
    recompute: int | None = None
    """1: recompute every unit in backward. 0: keep all activations."""

    def fixed(self, ranks: int) -> dict[str, Any]:
        """Return the given limits by name. Raise UserError for invalid ones, or axes that do not make the ranks."""
        for precision in self.precision:
            check_choice("--precision", precision, get_args(Precisions))
        if self.schedule is not None:
            check_choice("--schedule", self.schedule, get_args(Schedules))
        for name, least, most in (("dp", 1, MOST_RANKS), ("pp", 1, MOST_RANKS), ("tp", 1, MOST_RANKS), ("zero", 0, 3)):
            if getattr(self, name) is not None:
                check_whole(f"--{name}", getattr(self, name), least, most)
        if self.accumulate is not None:
            check_whole("--accumulate", self.accumulate, 1)
        if self.recompute is not None:
            check_whole("--recompute", self.recompute, 0, 1)
        if self.sp is not None:
            check_flag("sp", self.sp)
        axes = {axis: size for axis in ("dp", "pp", "tp") if (size := getattr(self, axis)) is not None}
        product = math.prod(axes.values())
        if ranks % product or (len(axes) == 3 and product != ranks):
            said = " ".join(f"--{axis} {size}" for axis, size in axes.items())
            wrong = f"makes {product} ranks, but there are" if len(axes) == 3 else "does not divide the"
            raise UserError(f"{said} {wrong} {ranks}{' ranks' * (len(axes) < 3)}; give --ranks {product}, for example")
        names = ("dp", "pp", "tp", "zero", "schedule", "accumulate", "sp", "recompute")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def option(name: str) -> str:
    """Return a field as its option is written."""
    return "--" + name.replace("_", "-")


def check_flag(name: str, value: object) -> None:
    """Raise UserError unless the value is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"--{name} is {shown(value)}; it must be True or False")


def check_figure(name: str, value: float | None, allowed: str) -> None:
    """Raise UserError unless the value is None, or a number in that range (errors.RANGES) that a machine can have."""
    if value is None:
        return
    check_number(option(name), value, allowed)
    if value > MOST_FIGURE or 0 < value < LEAST_FIGURE:
        border = f"at most {MOST_FIGURE:g}" if value > MOST_FIGURE else f"at least {LEAST_FIGURE:g}"
        raise UserError(f"{option(name)} is {shown(value)}; it must be {border}")
