"""Compare learning-rate schedules, each at its best peak."""

from functools import partial
from typing import get_args

from ..comm.communicator import Communicator
from ..models import mlp
from ..observe.draw import chart
from ..optim import Adam
from ..train.progress import Progress
from ..train.trainer import Trainer
from . import figure
from .options import LearningRates, OptimizerOptions
from .run_folder import RunFolder
from .small_runs import CompareOptions, Result, data, draw, follow, middle, overlap, plain, smooth_median, table

NAMES: tuple[LearningRates, ...] = get_args(LearningRates)
SHOWN = ("constant", "cosine", "inverse-time", "one-cycle")  # in the text chart; more curves would be unreadable


def train(world: Communicator, options: CompareOptions, o: OptimizerOptions, seed: int) -> Result:
    """Train once with Adam, the schedule of `o` and this seed. All ranks call it."""
    learned, held_out = data(options, seed)
    trainer = Trainer(mlp(), world, optimizer=Adam, schedule=o.schedule(), momentum=o.momentum(), seed=seed)
    return follow(trainer, trainer.each_update(learned, options.updates), options.updates, learned, held_out)


def schedule_options(name: LearningRates, peak: float, updates: int, epoch: int) -> OptimizerOptions:
    """Return options that use the whole budget: a tenth for warm-up, then a decay to (almost) 0 if there is one.

    Exponential ends at 1%, step divides by 10 after each third, inverse-time is peak / (1 + epoch), and the periods
    between restarts are 1/7, 2/7 and 4/7.
    """
    warmup = updates // 10
    rest = updates - warmup
    every = {"exponential": rest, "step": -(-rest // 3), "cosine-restarts": -(-rest // 7)}.get(name, epoch)
    gamma = 0.01 if name == "exponential" else 0.1
    return OptimizerOptions(updates, peak, name, lr_floor=0.0, warmup=warmup, lr_every=every, lr_gamma=gamma)


def schedules(options: CompareOptions, world: Communicator, folder: RunFolder) -> str:
    """Return a chart, a table, and the paths of the files. All ranks call it."""
    epoch, updates = data(options, 1)[0].batches, options.updates
    runs: dict[tuple[str, float], OptimizerOptions] = {}
    runs |= {(name, lr): schedule_options(name, lr, updates, epoch) for name in NAMES for lr in options.lr}
    results: dict[tuple[str, float], list[Result]] = {}
    with Progress(world).task("", len(runs), "settings") as task:
        for (name, lr), o in task.watch(runs.items()):
            results[name, lr] = [train(world, options, o, seed) for seed in range(1, options.seeds + 1)]
    best: dict[str, float] = {name: min(options.lr, key=lambda lr: middle(results[name, lr])) for name in NAMES}
    rows: dict[str, list[Result]] = {name: results[name, best[name]] for name in NAMES}
    curves = {name: smooth_median(found) for name, found in rows.items()}
    wide = max(map(len, NAMES)) + 1
    peaks = ", ".join(f"{lr:g}" for lr in options.lr)
    says = [
        chart({name: curves[name] for name in SHOWN}, "loss", "update", log=True),
        f"\nafter {updates} updates: median (lowest-highest) of {options.seeds} starts\n",
        table({f"{name:<{wide}}{best[name]:<6g}": found for name, found in rows.items()}, f"{'':<{wide}}{'peak':<6}"),
        f"\npeak: of {peaks}, the one with the lowest median validation loss",
        overlap(rows.values()),
    ]
    if world.rank == 0:
        rates = {key: [o.schedule()(t) for t in range(updates)] for key, o in runs.items()}
        says.append(folder.begin())
        says.append(figure.write(folder.path / "schedules.json", numbers(rates, results), partial(draw, curves)))
    return "\n".join(filter(None, says))


def numbers(rates: dict[tuple[str, float], list[float]], results: dict[tuple[str, float], list[Result]]) -> list[dict]:
    """Return all results, for a JSON file."""
    return [
        {"schedule": name, "peak": lr, "rates": rates[name, lr], "runs": [plain(run) for run in found]}
        for (name, lr), found in results.items()
    ]
