"""Count what a real update does on every rank: the third, after set-up and the checks of the first ones."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator, Tag
from minitrain.commands.config import TrainConfig
from minitrain.commands.train import TextTrainer
from minitrain.observe.ledger import Ledger
from minitrain.observe.virtual_time import Clock, Machine, open_clock
from minitrain.planner.holdings import KINDS


@dataclass(frozen=True)
class Counted:
    """What one rank did in one update."""

    sent: dict[Tag, int]
    flops: int
    peak: dict[str, int]  # by kind, and in total
    time: Fraction


def count(config: TrainConfig, world: Communicator, machine: Machine) -> Counted:
    """Return what this rank does in the third update, timed as on this machine."""
    ledger = Ledger()
    with ledger.open():
        text = TextTrainer(config, world)
        updates = text.updates(3)
        next(updates)
        next(updates)
        ledger.history, before, flops = [], ledger.bytes + ledger.charged, ledger.flops
        with open_clock(Clock(machine)) as clock:
            next(updates)
        text.close()
    history = ledger.history or []
    peak = {kind: max(live.get(kind, 0) for live in history) for kind in KINDS}
    peak["total"] = max(sum(live.values()) for live in history)
    sent = Counter(ledger.bytes + ledger.charged)
    sent.subtract(before)
    return Counted({tag: n for tag, n in sent.items() if n}, ledger.flops - flops, peak, clock.time)


def on_ranks(config: TrainConfig, ranks: int, machine: Machine) -> list[Counted]:
    """Return what every rank counts, with ranks as threads."""
    return threads.run(ranks, lambda world: count(config, world, machine), timeout=60, wait=20)
