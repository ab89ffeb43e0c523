"""Show what each rank holds during one update, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..comm.communicator import Communicator
from ..observe.draw import chart
from ..observe.ledger import Ledger
from ..runtime.launch import launch
from ..train.progress import Progress
from .config import TrainConfig
from .train import TextTrainer

KINDS = ("parameters", "gradients", "optimizer", "activations")


def record(config: TrainConfig, world: Communicator) -> tuple[int, Ledger]:
    """Return (number of parameters, ledger of the second update); the first creates the optimizer's state."""
    ledger = Ledger()
    with Progress(world).task("two updates"), ledger.open():
        text = TextTrainer(config, world)
        updates = text.updates(2)
        next(updates)
        ledger.history = []
        next(updates)
        text.close()
    return text.gpt_config.parameters, ledger


def show(config: TrainConfig, world: Communicator) -> str:
    """Return a chart of the update on rank 0 and a table of the peaks of each rank. All ranks call it."""
    parameters, ledger = record(config, world)
    history = ledger.history or []
    fullest = {kind: max(live.get(kind, 0) for live in history) for kind in KINDS}
    states = max(sum(live.get(kind, 0) for kind in KINDS[:3]) for live in history)
    rows = world.gather_objects([*fullest.values(), states])
    moments = [tuple(live.get(kind, 0) / 2**20 for kind in KINDS[:2]) for live in history]
    changes = [moment for moment, _ in groupby(moments)]  # activations come and go in between
    curves = dict(zip(KINDS, map(list, zip(*changes, strict=True)), strict=False))
    lines = [chart(curves, "MiB held by rank 0 in one update", "changes"), "", _heading()]
    lines += [_row(f"rank {rank}", row, parameters) for rank, row in enumerate(rows)]
    return "\n".join(lines)


def _heading() -> str:
    return "at most, MiB" + "".join(f"{kind:>13}" for kind in KINDS) + "   states/P"


def _row(name: str, held: Sequence[int], parameters: int) -> str:
    """Format a row. states/P: parameters + gradients + optimizer state, in bytes per parameter."""
    return f"{name:<12}" + "".join(f"{n / 2**20:>13.2f}" for n in held[:-1]) + f"{held[-1] / parameters:>11.2f}"


@dataclass(frozen=True)
class Memory(TrainConfig):
    """Show what each rank holds in memory during an update; takes train's options."""

    def run(self) -> int:
        """Run two updates and show the second."""
        with launch() as world:
            text = show(self, world)
            if world.rank == 0:
                print(text, flush=True)
        return 0
