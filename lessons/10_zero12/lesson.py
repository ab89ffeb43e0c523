"""ZeRO: the same training, and nobody keeps all of it.

mpirun -n 4 python lessons/10_zero12/lesson.py [--stage 2] [--steps 50] [--figure FILE.svg]
"""

# %% What we need
import argparse
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from lessons.charts import chart, figure
from lessons.receipt import Receipt
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import Adam
from minitrain.parallel.zero import GRADIENTS, own
from minitrain.train.build import reduce
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

STAGES = ("bucketed", "zero1", "zero2", "zero3")  # the library's names; the first is data parallel
KINDS = ("parameters", "gradients", "optimizer")
B, SEED, BUCKET = 30, 1, 0.01  # samples, seed, MiB of a bucket: about a layer


# %% One run
class Run(NamedTuple):
    """What a rank knows after training. held: kind -> bytes alive when the optimizer has stepped."""

    bits: list[bytes]  # of the parameters
    held: dict[str, int]
    gradients: list[int]  # bytes of gradients alive in the last update, after each change
    sent: int  # bytes in a step
    whole: int  # M, the bytes of the parameters
    owned: int  # the bytes of this rank's shares of them


def train(world: Communicator, loader: ArrayLoader, how: str, steps: int, **doors: Any) -> Run:
    """Trains a small MLP with Adam. The lines are the same for data parallel and for each stage."""
    ledger = Ledger()
    with ledger.open():
        model = mlp(MLPConfig(hidden=(64, 64, 64)))
        gradients = reduce(model, Mesh(world, dp=world.size), how, BUCKET, SEED, **doors)
        adam = Adam(gradients)
        for number in range(steps):
            ledger.history = []
            mine = loader.batch(number).part(world.rank, world.size)
            compute_gradients(model, mine, gradients)  # and add them up
            adam.step(0.01)  # on what this rank owns
            held = {kind: ledger.live[kind] for kind in KINDS}
            gradients.after_step()  # the parameters are whole again
    sizes = [size for size, _ in groupby(live.get("gradients", 0) for live in ledger.history)]
    curve = sizes[sizes.index(0) :]  # at first, those of the last update are dropped
    sent = ledger.bytes.total() // steps
    whole = sum(4 * bucket.size for bucket in gradients.buckets)
    owned = sum(4 * len(range(bucket.size)[own(bucket)]) for bucket in gradients.buckets)
    bits = [x.tobytes() for x in gather(model, world, gradients=gradients).values()]
    return Run(bits, held, curve, sent, whole, owned)


def all_reduced(flat: np.ndarray, group: Communicator) -> np.ndarray:
    """The obvious way to give each rank the sum of its share: everybody gets the whole sum."""
    group.all_reduce(flat, GRADIENTS)
    return flat


# %% The experiment
def experiment(world: Communicator, stage: int, steps: int, receipt: Receipt) -> list[list[Run]]:
    """Trains at every stage and fills the receipt. Returns for each stage the runs of all ranks."""
    images, labels = load_digits()
    loader, ring, N = ArrayLoader(images.astype("float32"), labels, B, SEED), RingCommunicator(world), world.size
    stages = [world.gather_objects(train(ring, loader, how, steps)) for how in STAGES]
    obvious = world.gather_objects(train(ring, loader, "zero1", steps, scatter=all_reduced))
    plain, M = stages[0][0], stages[0][0].whole
    for s in range(1, stage + 1):
        same = all(run.bits == plain.bits for run in stages[s])
        receipt.true(f"stage {s}: equal to stage 0 bit for bit, {steps} steps", same)
    receipt.equal("M, the bytes of 13,130 parameters in float32", 4 * 13130, M)
    for s, (whole, divided) in enumerate(((4, 0), (2, 2), (1, 3), (0, 4))):
        held = [sum(run.held.values()) for run in stages[s]]
        receipt.equal(f"stage {s}: bytes held by all ranks", (whole * N + divided) * M, sum(held))
        fair = held == [whole * M + divided * run.owned for run in stages[s]]
        receipt.true(f"stage {s}: each rank holds {whole} M + {divided} x its shares", fair)
    most = max(stages[2][0].gradients)
    receipt.true("stage 2: most gradients at once, in M", most < M, "< 1.00", f"{most / M:.2f}")
    told = {f"stage {s}": run for s, run in enumerate(stages)} | {"obvious stage 1": obvious}
    for (name, runs), units in zip(told.items(), (2, 2, 2, 3, 3), strict=True):
        sent, unit = sum(run.sent for run in runs), (N - 1) * M
        claim = f"{name}: sent in a step, in (N - 1) M"
        receipt.true(claim, sent == units * unit, f"{units:.2f}", f"{sent / unit:.2f}")
    receipt.true(f"obvious stage 1: equal bit for bit, {steps} steps", all(run.bits == plain.bits for run in obvious))
    return stages


def bars(stages: list[list[Run]]) -> str:
    """What each rank holds: p for parameters, g for gradients, o for the optimizer's state; 8 letters are M."""
    lines = []
    for s, runs in enumerate(stages):
        for rank, run in enumerate(runs):
            ends = [0, *(round(8 * end / run.whole) for end in accumulate(run.held.values()))]
            bar = "".join(k[0] * (hi - lo) for k, lo, hi in zip(KINDS, ends, ends[1:], strict=False))
            lines.append(f"stage {s}, rank {rank} |{bar} {sum(run.held.values()) / run.whole:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3), help="compare the stages up to this one")
    parser.add_argument("--steps", type=int, default=50, help="updates (default: 50)")
    parser.add_argument("--figure", help="write the picture to this file")
    options = parser.parse_args()
    with minitrain.launch() as world:
        if world.size == 1:
            raise UserError("this lesson divides memory among ranks: start it with mpirun -n 4 (or 2, or 3)")
        receipt = Receipt()
        stages = experiment(world, options.stage, options.steps, receipt)
        if world.rank == 0:
            print("held when the optimizer has stepped, in M: parameters, gradients, optimizer")
            print(bars(stages) + "\n")
            run = stages[options.stage][0]
            curve = {f"stage {options.stage}": [size / run.whole for size in run.gradients]}
            print(chart(curve, "gradients that rank 0 holds in one update, in M", "change", height=8))
            if options.figure:
                draw(stages, options.figure)
        receipt.print(world)


def draw(stages: list[list[Run]], path: str) -> None:
    """What rank 0 holds at each stage, and its gradients during one update."""
    with figure(path, columns=2) as (left, right):
        runs, M = [ranks[0] for ranks in stages], stages[0][0].whole
        names, below = [f"stage {s}" for s in range(len(runs))], np.zeros(len(runs))
        for kind in KINDS:
            heights = np.array([run.held[kind] / M for run in runs])
            left.bar(names, heights, bottom=below, label=kind, width=0.6)
            below += heights
        for x, total in enumerate(below):
            left.text(x, total + 0.05, f"{total:.2f}", ha="center")
        left.set_ylabel("M, held by rank 0 after the step")
        left.legend(frameon=False)
        for s, style in ((1, "--"), (2, "-")):
            curve = np.array(runs[s].gradients) / M
            right.step(np.linspace(0, 1, len(curve)), curve, style, where="post", color="C1", label=names[s])
        right.set(ylabel="M, gradients of rank 0", xlabel="during one update", xticks=[])
        right.legend(frameon=False)


if __name__ == "__main__":
    main()
