"""What a rank holds during one update: parameters, gradients and the optimizer's state, from the ledger of a real run.

Under data parallel every rank holds all three. Under ZeRO-3 it holds 1/N of each; the parameters of one unit after the
other are gathered and freed, in the forward and again in the backward, and the gradients arrive unit by unit and shrink
to a shard: the teeth of a saw above the line 16/N (parallel/zero.py; Rajbhandari et al., "ZeRO", arXiv:1910.02054,
figure 1). An update begins with the gradients of the one before, and frees them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

from ...comm.communicator import Communicator
from ...errors import check_whole
from ...observe.draw import chart
from ...observe.ledger import Ledger
from ...observe.palette import INK
from ...planner.setup import Setup
from ...train.progress import Progress
from ..config import TrainConfig
from ..options import ParallelOptions, StrategyOptions
from ..plan_setup import setup_of
from .drawing import Drawing, Numbers, Picture
from .memory import FILL
from .real_update import on_threads, ranks_of, third_update

KINDS = ("optimizer", "parameters", "gradients")  # from below


def record(config: TrainConfig, world: Communicator) -> Numbers:
    """Return what this rank holds in the third update. All ranks call it.

    For each of KINDS it is the bytes held after every change of one of them, and for "backward" the number of the
    change that allocates the first gradient.
    """
    ledger = Ledger()

    def count(update: Callable[[], object]) -> list[dict[str, int]]:
        ledger.history = [dict(ledger.live)]
        update()
        found, ledger.history = ledger.history, None
        return found

    with ledger.open():
        parameters, history = third_update(config, world, count)
    moments = [moment for moment, _ in groupby(tuple(live.get(kind, 0) for kind in KINDS) for live in history)]
    held = dict(zip(KINDS, ([*column] for column in zip(*moments, strict=True)), strict=True))
    grows = [after > before for before, after in zip(held["gradients"], held["gradients"][1:], strict=False)]
    return {"zero": config.strategy.zero, "parameter_count": parameters, "backward": 1 + grows.index(True), **held}


def formula(setup: Setup) -> tuple[int, int]:
    """Return (a, b) of the a + b/N bytes per parameter that a rank holds at the end of an update, without activations.

    N: the ranks among which ZeRO divides b.
    """
    parts = {1: setup.state, 2: setup.stored, 3: setup.stored}  # optimizer, gradients, parameters
    divided = sum(size for stage, size in parts.items() if setup.strategy.zero >= stage)
    return sum(parts.values()) - divided, divided


def draw(numbers: Numbers, panels: Any) -> None:
    """Draw a panel of matplotlib axes for each run, with the kinds stacked."""
    top = 1.15 * max(sum(run["formula"]) for run in numbers["runs"])
    for axes, run in zip(panels, numbers["runs"], strict=True):
        changes, low = range(len(run["gradients"]) + 1), [0.0] * (len(run["gradients"]) + 1)
        for kind in KINDS:
            held = [nbytes / run["parameter_count"] for nbytes in (*run[kind], run[kind][-1])]
            high = [below + mine for below, mine in zip(low, held, strict=True)]
            look = {"facecolor": FILL[kind], "edgecolor": INK, "linewidth": 0.5}
            axes.fill_between(changes, low, high, step="post", label=kind, **look)
            low = high
        line = run["formula"][0] + run["formula"][1] / numbers["dp"]
        axes.axhline(line / numbers["parts"], color=INK, linestyle="--", linewidth=1)
        axes.text(changes[-1] * 1.006, line / numbers["parts"], label(run, numbers), va="center", fontsize=8)
        axes.axvline(run["backward"], color=INK, linestyle=":", linewidth=0.8)
        for what, side in (("forward ", "right"), (" backward", "left")):
            axes.text(run["backward"], 0.99 * top, what, ha=side, va="top", fontsize=8)
        axes.set(xlim=(0, changes[-1]), ylim=(0, top), ylabel="bytes per parameter")
        axes.set_title(name_of(run), fontsize=9, loc="left")
    panels[-1].set_xlabel("changes of what the rank holds, in one update")
    handles, names = panels[-1].get_legend_handles_labels()
    panels[-1].legend(handles[::-1], names[::-1], loc="upper right", bbox_to_anchor=(1.0, 0.88), ncols=3, fontsize=8)


def label(run: Numbers, numbers: Numbers) -> str:
    """Return the formula of what a rank holds, such as 16/N."""
    whole, divided = run["formula"]
    dp, parts = numbers["dp"], numbers["parts"]
    says = " + ".join([f"{whole}"] * (whole > 0) + [f"{divided}/{dp}"] * (divided > 0))
    return says if parts == 1 else f"({says})/{parts}"


def name_of(run: Numbers) -> str:
    """Return a run's strategy."""
    return f"ZeRO-{run['zero']}" if run["zero"] else "data parallel"


def text(numbers: Numbers) -> str:
    """Return a chart of parameters and gradients of the last run, and a table of all."""
    *_, last = numbers["runs"]
    curves = {kind: [nbytes / last["parameter_count"] for nbytes in last[kind]] for kind in KINDS[1:]}
    lines = [chart(curves, f"{name_of(last)}, bytes per parameter", "changes"), ""]
    lines.append(f"{'bytes per parameter':<30}{'least':>10}{'most':>10}{'at the end':>12}")
    for run in numbers["runs"]:
        together = [sum(held) for held in zip(*(run[kind] for kind in KINDS), strict=True)]
        for kind, held in (*((kind, run[kind]) for kind in KINDS), ("together", together)):
            few = (nbytes / run["parameter_count"] for nbytes in (min(held), max(held), held[-1]))
            lines.append(
                f"{name_of(run):<16}{kind:<14}"
                + "".join(f"{x:>{w}.2f}" for x, w in zip(few, (10, 10, 12), strict=True))
            )
        a, b = run["formula"]
        size = (a + b / numbers["dp"]) / numbers["parts"]
        lines.append(f"{name_of(run):<16}{'by the formula ' + label(run, numbers):<34}{size:>12.2f}")
    return "\n".join(lines)


@dataclass(frozen=True)
class SawTooth(Picture, TrainConfig):
    """Draw what a rank holds during an update under ZeRO-3, and under data parallel; takes train's options."""

    name = "saw-tooth"

    parallel: ParallelOptions = field(default_factory=lambda: ParallelOptions(dp=4, comm="ring"))
    strategy: StrategyOptions = field(default_factory=lambda: StrategyOptions(zero=3))
    against: int = 0
    """The ZeRO stage to draw above --zero; 0: data parallel."""

    def drawing(self) -> Drawing:
        """Make three updates of each with ranks as threads, and record the third. Raise UserError for bad options."""
        check_whole("--against", self.against, 0, 3)
        ranks, runs = ranks_of(self), []
        stages = (self.against, self.strategy.zero)
        for zero in Progress().watch(stages, len(stages), what="runs"):
            options = replace(self.strategy, zero=zero, prefetch=self.strategy.prefetch and zero == 3)
            config = replace(self, strategy=options)
            found = on_threads(ranks, partial(record, config))[0]
            runs.append(found | {"formula": formula(setup_of(config, 1, ranks))})
        p = self.parallel
        numbers = {"dp": p.dp or 1, "parts": p.pp * p.tp, "runs": runs}
        return Drawing(numbers, partial(draw, numbers), text(numbers), rows=2, height=4.6)
