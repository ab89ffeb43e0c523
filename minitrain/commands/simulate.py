"""The command `simulate`: collectives, updates and failures of thousands of ranks, in virtual time on one core."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from ..environment import launched
from ..errors import UserError, check_choice, check_number, check_whole, reason, shown
from ..planner import failures
from ..planner.failures import Job
from ..planner.scaling import check, ring_row, scaled, update_row
from ..planner.setup import Setup
from ..train.progress import Progress
from . import simulate_report as report
from .options import ParallelOptions, StrategyOptions
from .plan_options import MOST_RANKS, PlannedMachine, PlannedModel, Precisions

HOUR, DAY = 3600.0, 86400.0
QUADRUPLES = (16, 64, 256, 1024, 4096, 16384)
Part = Any  # what rich prints


@dataclass(frozen=True)
class SimulatedMachine(PlannedMachine):
    """The machine. What is not given is that of the preset."""

    machine: Literal["laptop", "a100", "h100"] = "h100"
    """laptop: 4 ranks a host; a100, h100: hosts of 8 GPUs with NVLink, connected by InfiniBand."""
    ranks: tyro.conf.Suppress[int | None] = None
    memory_gb: tyro.conf.Suppress[float | None] = None
    host_memory_gb: tyro.conf.Suppress[float | None] = None
    measure: tyro.conf.Suppress[bool] = False


@dataclass(frozen=True)
class SimulatedModel(PlannedModel):
    """The model. Sizes that are not given are the preset's."""

    model: tyro.conf.Positional[str] = "gpt3-175b"
    """Name of a preset: gpt2-1.5b, gpt3-175b, llama3-70b ... `plan --list` shows all of them."""


@dataclass(frozen=True)
class SimulatedParallel(ParallelOptions):
    """How the ranks divide the work. With several --ranks: --accumulate is that of the first."""

    dp: int | None = None
    """Ranks that divide the batch (data parallel). None: --ranks, divided by --pp and --tp; without --ranks 16."""
    tp: int = 8
    pp: int = 8
    accumulate: int = 48
    comm: tyro.conf.Suppress[Literal["mpi", "ring"]] = "ring"
    memory_mb: tyro.conf.Suppress[float | None] = None


@dataclass(frozen=True)
class SimulatedStrategy(StrategyOptions):
    """How the model, gradients and activations are stored and sent."""

    reduce: Literal["bucketed", "naive", "overlap"] = "overlap"
    """bucketed: reduce gradients in buckets; naive: one by one, after backward; overlap: in buckets, by a thread."""


class Simulation:
    """A simulation: `simulate` returns all numbers, for --out, and what to print."""

    out: Path | None

    def simulate(self, progress: Progress) -> tuple[dict[str, Any], list[Part]]:
        """Return the numbers, and what to print. Raise UserError for invalid options."""
        raise NotImplementedError

    def run(self) -> int:
        """Simulate, print tables, and write --out. Raise UserError for invalid options, or an unwritable file."""
        if launched()[1] != 0:
            return 0
        if self.out is not None:
            write(self.out)  # a simulation may take long: fail before
        progress = Progress()
        with progress.task("simulation"):
            numbers, parts = self.simulate(progress)
        console = Console(highlight=False, markup=False, soft_wrap=True, width=200)
        for part in parts:
            console.print(part)
        if self.out is not None:
            write(self.out, numbers)
            console.print(f"wrote {self.out}")
        return 0


@dataclass(frozen=True)
class SimulateRing(Simulation):
    """All-reduce over a flat ring and over hosts (hierarchical), message by message.

    Every link carries one message at a time; latencies overlap."""

    machine: SimulatedMachine = field(default_factory=SimulatedMachine)
    ranks: tuple[int, ...] = QUADRUPLES
    """Numbers of ranks, each a multiple of those of a host, or fewer."""
    mb: float = 100.0
    """Size of the array on each rank, in MB (1e6 bytes), of float32."""
    late: tuple[tuple[int, float], ...] = ()
    """Pairs of a rank and the milliseconds by which it starts after the others: --late 0 5."""
    slow: tuple[tuple[int, float], ...] = ()
    """Pairs of a rank and a factor, by which messages to it take longer: --slow 3 2."""
    out: Path | None = None
    """Write all numbers to this .json file."""

    def simulate(self, progress: Progress) -> tuple[dict[str, Any], list[Part]]:
        """Return a row for each number of ranks, and their table. Raise UserError for invalid options."""
        computer = self.machine.computer()
        check_ranks(self.ranks)
        check_number("--mb", self.mb, "above 0")
        check_pairs("--late", self.late, min(self.ranks), "at least 0")
        check_pairs("--slow", self.slow, min(self.ranks), "above 0")
        late, slow, nbytes = {rank: ms / 1e3 for rank, ms in self.late}, dict(self.slow), round(self.mb * 1e6)
        made = (ring_row(computer.machine, ranks, nbytes, late, slow) for ranks in self.ranks)
        rows = [*progress.watch(made, len(self.ranks), "ring", "numbers of ranks")]
        about = {"machine": asdict(computer), "bytes": nbytes, "late_seconds": late, "slow_factors": slow}
        return {**about, "rows": [*map(asdict, rows)]}, report.rings(rows, computer, nbytes, late, slow)


@dataclass(frozen=True)
class SimulateUpdate(Simulation):
    """An update of all ranks, some of them slow: who computes, and who waits.

    With several --ranks: weak scaling, where the batch grows with the ranks, and
    strong scaling, where it stays."""

    model: SimulatedModel = field(default_factory=SimulatedModel)
    machine: SimulatedMachine = field(default_factory=SimulatedMachine)
    parallel: SimulatedParallel = field(default_factory=SimulatedParallel)
    strategy: SimulatedStrategy = field(default_factory=SimulatedStrategy)
    precision: Precisions | None = None
    """With -weights, parameters and gradients are in 16 bits, too. None: fp32 on a laptop, bf16-weights on GPUs."""
    ranks: tuple[int, ...] = ()
    """Numbers of ranks, multiples of --pp x --tp; --batch is that of the first. None given: --dp x --pp x --tp."""
    slow: tuple[tuple[int, float], ...] = ((0, 2.0),)
    """Pairs of a rank and the factor by which it computes longer: --slow 5000 2. A factor of 1 is not slow."""
    out: Path | None = None
    """Write all numbers to this .json file."""

    def setups(self) -> tuple[list[Setup], list[Setup]]:
        """Return what to simulate, for weak and for strong scaling. Raise UserError for invalid options."""
        p = self.parallel
        for name in ("tp", "pp", "accumulate"):
            check_whole(f"--{name}", getattr(p, name), 1, MOST_RANKS)
        if p.dp is not None:
            check_whole("--dp", p.dp, 1, MOST_RANKS)
        model = p.pp * p.tp
        ranks = self.ranks or ((p.dp or 16) * model,)
        check_ranks(ranks)
        if ranks[0] % model or (p.dp is not None and p.dp * model != ranks[0]):
            dp = "" if p.dp is None else f"--dp {p.dp} "
            raise UserError(
                f"{dp}--pp {p.pp} --tp {p.tp} do not make {ranks[0]} ranks; give --ranks {model * (p.dp or 1)}"
            )
        if self.precision is not None:
            check_choice("--precision", self.precision, ("fp32", "fp16", "bf16", "fp16-weights", "bf16-weights"))
        kind, _, weights = (self.precision or self.machine.computer().precisions[0]).partition("-")
        first = Setup(
            self.model.sizes(), self.model.sequences(), ranks[0] // model, p.pp, p.tp, self.strategy, p.accumulate,
            kind, bool(weights), scaled=kind == "fp16", flash=self.model.flash,  # type: ignore[arg-type]
        )  # fmt: skip
        check(first)
        weak, strong = ([scaled(first, n, weak) for n in ranks] for weak in (True, False))
        return weak, [setup for setup in strong if setup.dp * setup.accumulate <= setup.batch]

    def simulate(self, progress: Progress) -> tuple[dict[str, Any], list[Part]]:
        """Return a row for each number of ranks and kind of scaling, and what to print.

        Raise UserError for invalid options.
        """
        weak, strong = self.setups()
        computer = self.machine.computer()
        check_pairs("--slow", self.slow, min(setup.ranks for setup in weak), "above 0")
        slow = {rank: Fraction(str(factor)) for rank, factor in self.slow}
        every = [*weak, *(strong if len(weak) > 1 else [])]
        made = (update_row(setup, computer.machine, slow) for setup in every)
        rows = [*progress.watch(made, len(every), "update", "simulations")]
        named = {"weak": rows[: len(weak)], "strong": rows[len(weak) :]}
        about = {
            "model": self.model.model, "sizes": asdict(weak[0].sizes), "machine": asdict(computer), "pp": weak[0].pp,
            "tp": weak[0].tp, "strategy": asdict(self.strategy), "slow_factors": dict(self.slow),
        }  # fmt: skip
        numbers = {name: [asdict(row) | {"cost": row.cost} for row in rows] for name, rows in named.items()}
        return about | numbers, report.updates(self.model.model, weak[0], named, dict(self.slow))


@dataclass(frozen=True)
class SimulateFailures(Simulation):
    """Failures and checkpoints: how often to save, and what both cost.

    By default as in the training of Llama 3: 419 unexpected interruptions of
    16,384 GPUs in 54 days."""

    ranks: tuple[int, ...] = (16384,)
    """Numbers of ranks."""
    mtbf_hours: float = 50_676.0
    """Mean hours between the failures of one rank; 54 days x 16,384 / 419 for Llama 3 (arXiv:2407.21783, table 5)."""
    days: float = 54.0
    """Days of work, without failures and checkpoints."""
    checkpoint_s: float = 60.0
    """Seconds to write a checkpoint, while the ranks wait (C)."""
    restart_s: float = 600.0
    """Seconds from a failure until the ranks compute again (R)."""
    trials: int = 1000
    """Simulated runs for each interval."""
    seed: int = 1
    """Seed of the failures."""
    out: Path | None = None
    """Write all numbers to this .json file."""

    def simulate(self, progress: Progress) -> tuple[dict[str, Any], list[Part]]:
        """Return a row for each interval and number of ranks, and their tables. Raise UserError for invalid options."""
        check_ranks(self.ranks)
        for name in ("mtbf_hours", "days", "checkpoint_s"):
            check_number(f"--{name.replace('_', '-')}", getattr(self, name), "above 0")
        numbers, parts = [], []
        for ranks in self.ranks:
            job = Job(self.days * DAY, self.mtbf_hours * HOUR / ranks, self.checkpoint_s, self.restart_s)
            made = failures.rows(job, self.trials, self.seed)
            rows = [*progress.watch(made, 10, f"{ranks} ranks", "intervals")]
            parts += report.checkpoints(job, ranks, rows, self.trials)
            numbers.append({
                "ranks": ranks, "job": asdict(job), "young": failures.young(job), "daly": failures.daly(job),
                "rows": [{name: finite(value) for name, value in asdict(row).items()} for row in rows],
            })  # fmt: skip
        return {"trials": self.trials, "seed": self.seed, "jobs": numbers}, parts


@dataclass(frozen=True)
class Simulate:
    """Simulate thousands of ranks in virtual time: collectives, updates, failures."""

    what: (
        Annotated[SimulateRing, tyro.conf.subcommand("ring", prefix_name=False)]
        | Annotated[SimulateUpdate, tyro.conf.subcommand("update", prefix_name=False)]
        | Annotated[SimulateFailures, tyro.conf.subcommand("failures", prefix_name=False)]
    )
    """What to simulate."""

    def run(self) -> int:
        """Run the chosen simulation and return its exit status."""
        return self.what.run()


def finite(value: Any) -> Any:
    """Return the value, or None for a number that is infinite, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_ranks(ranks: Sequence[int]) -> None:
    """Raise UserError unless there are numbers of ranks, all of them possible."""
    if not ranks:
        raise UserError("--ranks needs at least one number of ranks, such as --ranks 16 1024")
    for n in ranks:
        check_whole("--ranks", n, 1, MOST_RANKS)


def check_pairs(name: str, pairs: Sequence[tuple[int, float]], ranks: int, allowed: str) -> None:
    """Raise UserError unless the pairs are of ranks, each once, and numbers in a range of errors.RANGES."""
    for rank, value in pairs:
        check_whole(f"a rank of {name}", rank, 0, ranks - 1)
        check_number(f"{name} {rank}", value, allowed)
    if len({rank for rank, _ in pairs}) < len(pairs):
        raise UserError(f"{name} is {pairs}; give each rank once")


def write(path: Path, numbers: dict[str, Any] | None = None) -> None:
    """Write the numbers to a .json file; None: only open it. Raise UserError if that fails, or for another file."""
    if not isinstance(path, Path) or not path.name.endswith(".json"):
        raise UserError(f"--out is {shown(path)}; it must be a file that ends in .json")
    try:
        with path.open("a" if numbers is None else "w", encoding="utf-8") as file:
            if numbers is not None:
                json.dump(numbers, file, indent=1, allow_nan=False)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise UserError(f"cannot write {path}: {reason(error)}; give another file with --out") from error
