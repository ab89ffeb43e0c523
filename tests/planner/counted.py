"""Count what a real update does on every rank: the third, after set-up and the checks of the first ones."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.mesh import Mesh
from minitrain.commands.config import TrainConfig
from minitrain.commands.train import TextTrainer
from minitrain.data.loader import TextLoader
from minitrain.models import Model
from minitrain.observe.ledger import Ledger
from minitrain.observe.virtual_time import Clock, Machine, Seconds, open_clock
from minitrain.optim import Adam
from minitrain.planner.holdings import KINDS
from minitrain.planner.setup import Setup
from minitrain.train.trainer import Trainer


@dataclass(frozen=True)
class Counted:
    """What one rank did in one update."""

    sent: dict[Tag, int]
    flops: int
    peak: dict[str, int]  # by kind, and in total
    time: Seconds


def count(updates: Iterator[object], ledger: Ledger, machine: Machine) -> Counted:
    """Return what this rank does in the third update, timed as on this machine."""
    next(updates)
    next(updates)
    ledger.history, before, flops = [], ledger.bytes + ledger.charged, ledger.flops
    with open_clock(Clock(machine)) as clock:
        next(updates)
    peak = {kind: max(live.get(kind, 0) for live in ledger.history) for kind in KINDS}
    peak["total"] = max(sum(live.values()) for live in ledger.history)
    sent = Counter(ledger.bytes + ledger.charged)
    sent.subtract(before)
    return Counted({tag: n for tag, n in sent.items() if n}, ledger.flops - flops, peak, clock.time)


def of_text(config: TrainConfig, world: Communicator, machine: Machine) -> Counted:
    """Return what this rank counts in a run of `minitrain train`."""
    with Ledger().open() as ledger:
        text = TextTrainer(config, world)
        counted = count(text.updates(3), ledger, machine)
        text.close()
    return counted


def of_model(model: Model, setup: Setup, world: Communicator, machine: Machine) -> Counted:
    """Return what this rank counts when it trains the model on random ids."""
    s = setup.sizes
    ids = np.random.default_rng(1).integers(0, s.vocabulary, 200).astype(np.int32)
    mesh = Mesh(world, dp=setup.dp, pp=setup.pp, tp=setup.tp)
    with Ledger().open() as ledger:
        trainer = Trainer(
            model, world, optimizer=Adam, schedule=0.001, mesh=mesh, strategy=setup.strategy,
            accumulate=setup.accumulate, seed=1,
        )  # fmt: skip
        counted = count(trainer.each_update(TextLoader(ids, s.length, setup.batch, 1), 3), ledger, machine)
        trainer.close()
    return counted


def on_ranks(count: Callable[[Communicator], Counted], ranks: int) -> list[Counted]:
    """Return what every rank counts, with ranks as threads."""
    return threads.run(ranks, count, timeout=60, wait=20)
