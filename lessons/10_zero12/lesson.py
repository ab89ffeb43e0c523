"""ZeRO: the same training, and nobody keeps all of it.

mpirun -n 4 python lessons/10_zero12/lesson.py [--stage 2] [--steps 20] [--figure FILE.svg]
"""

# %% What we need
import argparse
from importlib import import_module
from itertools import groupby
from typing import NamedTuple

import minitrain
from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lessons.charts import chart
from minitrain.lessons.receipt import Receipt
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import Adam
from minitrain.parallel.hooks import Scatter
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import GRADIENTS
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

STAGES = range(4)  # the first is data parallel
KINDS = ("parameters", "gradients", "optimizer")
B, SEED, BUCKET = 30, 1, 0.01  # samples, seed, MiB of a bucket: about a layer
picture = import_module("minitrain.lessons.course.10_zero12.picture")


# %% One run
class Run(NamedTuple):
    """What a rank reports after training. held: kind -> bytes alive after the optimizer's step."""

    bits: list[bytes]  # of the parameters
    held: dict[str, int]
    gradients: list[int]  # bytes of gradients alive in the last update, after each change
    sent: int  # bytes in a step
    owned: int  # the bytes of this rank's shards of the parameters


def train(world: Communicator, loader: ArrayLoader, stage: int, steps: int, scatter: Scatter | None = None) -> Run:
    """Train a small MLP with Adam. The code is the same for data parallel and for each stage."""
    ledger = Ledger()
    with ledger.open():
        model = mlp(MLPConfig(hidden=(64, 64, 64)))
        strategy = Strategy(zero=stage, bucket_mb=BUCKET)
        reducer = parallelize(model, Mesh(world, dp=world.size), strategy, scatter=scatter)
        reducer.init(SEED)
        adam = Adam(reducer)
        for number in range(steps):
            ledger.history = []
            compute_gradients(model, loader.batch(number).part(world.rank, world.size), reducer)  # and adds them up
            adam.step(0.01)  # on what this rank owns
            held = {kind: ledger.live[kind] for kind in KINDS}
            reducer.gather_parameters()  # every rank has all parameters again
    sizes = [size for size, _ in groupby(live.get("gradients", 0) for live in ledger.history or [])]
    sizes = sizes[sizes.index(0) :]  # an update begins by freeing the gradients of the last one
    owned = sum(4 * len(range(bucket.size)[bucket.own_shard]) for bucket in reducer.buckets)
    bits = [x.tobytes() for x in gather(model, world, reducer=reducer).values()]
    return Run(bits, held, sizes, ledger.bytes.total() // steps, owned)


def all_reduced(flat: Array, group: Communicator) -> Array:
    """Give each rank its shard of the sum the obvious way: every rank gets the whole sum."""
    group.all_reduce(flat, GRADIENTS)
    return flat


# %% The experiment
def experiment(world: Communicator, stage: int, steps: int, receipt: Receipt) -> list[list[Run]]:
    """Train at every stage and fill the receipt. Return the runs of all ranks for each stage."""
    images, labels = load_digits()
    loader, ring, N = ArrayLoader(images.astype("float32"), labels, B, SEED), RingCommunicator(world), world.size
    stages = [world.gather_objects(train(ring, loader, stage, steps)) for stage in STAGES]
    obvious = world.gather_objects(train(ring, loader, 1, steps, scatter=all_reduced))
    M = stages[0][0].held["parameters"]
    equal = lambda runs: all(run.bits == stages[0][0].bits for run in runs)
    for s in range(1, stage + 1):
        receipt.true(f"stage {s}: equal to stage 0 bit for bit, {steps} steps", equal(stages[s]))
    receipt.equal("M, the bytes of 13,130 parameters in float32", 4 * 13130, M)
    theory = ((4, 0, "4 M"), (2, 2, "2 M + 2 shards"), (1, 3, "M + 3 shards"), (0, 4, "4 shards"))
    for s, (whole, divided, told) in enumerate(theory):
        held = [sum(run.held.values()) for run in stages[s]]
        receipt.equal(f"stage {s}: bytes held by all ranks", (whole * N + divided) * M, sum(held))
        receipt.true(f"stage {s}: each holds {told}", held == [whole * M + divided * run.owned for run in stages[s]])
    most = max(stages[2][0].gradients) / M
    receipt.true("stage 2: most gradients at once, in M", most < 1, "< 1.00", f"{most:.2f}")
    every = {f"stage {s}": runs for s, runs in enumerate(stages)} | {"obvious stage 1": obvious}
    for (name, runs), units in zip(every.items(), (2, 2, 2, 3, 3), strict=True):
        sent = sum(run.sent for run in runs) / ((N - 1) * M)
        receipt.true(f"{name}: sent in a step, in (N - 1) M", sent == units, f"{units:.2f}", f"{sent:.2f}")
    receipt.true(f"obvious stage 1: equal bit for bit, {steps} steps", equal(obvious))
    return stages


# %% The run
def run(world: Communicator, options: argparse.Namespace) -> None:
    """Train at every stage, and show what the ranks hold."""
    if world.size == 1:
        raise UserError("this lesson divides memory among ranks: start it with mpirun -n 4 (or 2, or 3)")
    receipt = Receipt()
    stages = experiment(world, options.stage, options.steps, receipt)
    if world.rank == 0:
        curve = {f"stage {options.stage}": picture.curve(stages, options.stage)}
        print(f"{picture.bars(stages)}\n")
        print(chart(curve, "gradients on rank 0 in one update, in M", "array allocated or freed:", height=8))
        if options.figure:
            picture.draw(stages, options.figure)
    receipt.print(world)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3), help="compare with stage 0 up to this stage")
    parser.add_argument("--steps", type=int, default=20, help="number of updates (default: 20)")
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch() as world:
        run(world, options)


if __name__ == "__main__":
    main()
