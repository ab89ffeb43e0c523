"""The same training run under several strategies: the loss of every update, and how far it is from one process.

The runs make the same updates in float64, with ranks as threads. They add the same numbers in another order, and so
their losses differ by rounding: by 1e-16 of the loss at first. As in any training, every update amplifies a difference,
the more the higher the learning rate: after hundreds of updates, rounding may show in the third digit of a loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...comm.communicator import Communicator
from ...errors import check_whole
from ...observe.draw import chart
from ...observe.palette import INK, LINES
from ...train.progress import Progress
from ..config import TrainConfig
from ..options import DataOptions, ModelOptions, OptimizerOptions, ParallelOptions
from ..train import TextTrainer
from .drawing import Drawing, Numbers, Picture
from .real_update import on_threads, ranks_of

MESHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> options of ParallelOptions, of the strategy
    "one process": ({}, {}),
    "data parallel, 3 ranks": ({"dp": 3}, {}),
    "ZeRO-3, 3 ranks": ({"dp": 3}, {"zero": 3}),
    "tensor and sequence parallel, 4 ranks": ({"tp": 4}, {"sp": True}),
    "pipeline zb-v, 4 ranks": ({"pp": 4, "accumulate": 8}, {"schedule": "zb-v"}),
    "dp 2 x pp 2 x tp 2, ZeRO-1, 8 ranks": ({"dp": 2, "pp": 2, "tp": 2, "accumulate": 4}, {"zero": 1}),
}
MARKS = "os^Dv"
BOUND = 1e-12  # what the tests allow
NONE = 1e-17  # where no difference at all is drawn


def losses(config: TrainConfig, updates: int, world: Communicator) -> list[float]:
    """Return the loss of each update. All ranks call it."""
    text = TextTrainer(config, world)
    found = [update.loss for update in text.updates(updates)]
    text.close()
    return found


def compared(runs: dict[str, list[float]]) -> list[Numbers]:
    """Return each run with `apart`: for each update, the relative difference of its loss from the first run's."""
    first, *_ = runs.values()
    return [
        {"name": name, "loss": mine, "apart": [abs(a - b) / b for a, b in zip(mine, first, strict=True)]}
        for name, mine in runs.items()
    ]


def draw(runs: Sequence[Numbers], panels: Any) -> None:
    """Draw the losses, which lie on one line, and below how far they are apart, on two matplotlib axes."""
    axes = panels[0]
    few = 2 * (len(runs) - 1)  # a run's losses are marked at every so many updates
    updates = range(1, len(runs[0]["loss"]) + 1)
    axes.plot(updates, runs[0]["loss"], color=INK, linestyle="-", linewidth=1, label=runs[0]["name"])
    for i, run in enumerate(runs[1:]):
        look = {"color": LINES[i % len(LINES)], "marker": MARKS[i % len(MARKS)], "linestyle": "none"}
        axes.plot(updates[2 * i :: few], run["loss"][2 * i :: few], label=run["name"], markersize=4.5, **look)
        apart = [max(apart, NONE) for apart in run["apart"]]
        panels[1].plot(updates, apart, markersize=2.5, **look)
    axes.set(ylabel="loss")
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper right", fontsize=8)
    axes = panels[1]
    axes.axhline(BOUND, color=INK, linestyle="--", linewidth=1)
    axes.text(1, BOUND / 2, "the tests allow this much", va="top", fontsize=8)
    axes.set(yscale="log", ylim=(NONE / 3, 10 * BOUND), xlabel="update", ylabel="relative difference")
    axes.set_yticks([NONE, 1e-15, 1e-13], ["none", "$10^{-15}$", "$10^{-13}$"])
    axes.minorticks_off()


def text(runs: Sequence[Numbers]) -> str:
    """Return a chart of the losses and a table of the differences."""
    lines = [chart({run["name"]: run["loss"] for run in runs[:1]}, "loss", "update"), ""]
    lines.append(f"{'':<40}{'last loss':>20}{'largest difference':>20}")
    lines += [f"{run['name']:<40}{run['loss'][-1]:>20.15f}{max(run['apart']):>20.1e}" for run in runs]
    return "\n".join(lines)


@dataclass(frozen=True)
class SameRun(Picture):
    """Draw the same training run on one process and under five strategies, in float64."""

    name = "same-run"

    updates: int = 60
    """Updates of each run."""
    model: ModelOptions = field(
        default_factory=lambda: ModelOptions(layers=6, heads=4, width=32, context=32, dtype="float64")
    )
    data: DataOptions = field(default_factory=lambda: DataOptions(batch=17))

    def configs(self) -> dict[str, TrainConfig]:
        """Return the options of each run."""
        shared = TrainConfig(self.model, self.data, OptimizerOptions(steps=self.updates, lr=0.003, warmup=10))
        return {
            name: replace(shared, parallel=ParallelOptions(**parallel), strategy=replace(shared.strategy, **strategy))
            for name, (parallel, strategy) in MESHES.items()
        }

    def drawing(self) -> Drawing:
        """Make all runs with ranks as threads. Raise UserError for invalid options."""
        check_whole("--updates", self.updates, 1)
        runs: dict[str, list[float]] = {}
        with Progress().task("", len(MESHES), "runs") as task:
            for name, config in task.watch(self.configs().items()):
                runs[name] = on_threads(ranks_of(config), partial(losses, config, self.updates))[0]
        found = compared(runs)
        return Drawing({"runs": found}, partial(draw, found), text(found), rows=2, height=4.2)
