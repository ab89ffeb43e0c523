"""Data parallel equals the serial run: three loss curves, two of which coincide.

mpirun -n 4 python lessons/07_data_parallel/lesson.py [--steps 200] [--figure FILE.svg]
"""

# %% What we need
import argparse
from collections.abc import Callable

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lessons.charts import INK, LINES, chart, figure
from minitrain.lessons.receipt import Receipt
from minitrain.models import MLPConfig, Model, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam
from minitrain.parallel.data_parallel import TAG, sync_gradients
from minitrain.parallel.parallelize import parallelize

B, SEED = 30, 1  # 30 samples do not divide evenly among 4 ranks


# %% The whole of data parallel: the same lines for one process and for many
def train(
    world: Communicator,
    loader: ArrayLoader,
    steps: int,
    seed: int,
    optimizer: Callable = SGD,
    lr: float = 0.1,
    sync: Callable = sync_gradients,
) -> tuple[list[float], Model]:
    """Train a small MLP by data parallel. Return the losses of the global batches and this rank's replica.

    Draw the parameters from the seed. optimizer(reducer) makes the optimizer; sync sums the gradients over ranks. If a
    batch has fewer samples than there are ranks, some ranks have none.
    """
    model = mlp(MLPConfig(hidden=(32,), dtype=str(loader.inputs.dtype)))
    reducer = parallelize(model, Mesh(world, dp=world.size), sync=sync, same=False)
    reducer.init(seed)
    update = optimizer(reducer)
    losses = []
    for number in range(steps):
        mine = loader.batch(number).part(world.rank, world.size)  # 1 every rank takes its samples
        reducer.start_step()
        loss = model(mine)  # 2 forward
        loss.backward()  # 3 backward
        reducer.end_backward()
        reducer.synchronize()  # 4 sync: the sum over ranks
        update.step(lr)  # 5 the same step everywhere
        losses.append(sum(world.gather_objects(loss.item())))
    return losses, model


# %% The experiment
def digits(dtype: str) -> ArrayLoader:
    images, labels = load_digits()
    return ArrayLoader(images.astype(dtype), labels, B, SEED)


def apart(a: list[float], b: list[float]) -> list[float]:
    """Return the absolute difference of two curves."""
    return [abs(x - y) for x, y in zip(a, b, strict=True)]


def replicas_equal(world: Communicator, model: Model) -> bool:
    """Return whether all ranks hold the same parameters, bit for bit."""
    bits = world.gather_objects([p.data.tobytes() for p in model.parameters()])
    return all(other == bits[0] for other in bits)


def experiment(world: Communicator, steps: int, receipt: Receipt) -> dict[str, list[float]]:
    """Train with and without the sum. Fill the receipt and return the curves."""
    ring, ledger, curves = RingCommunicator(world), Ledger(), {}
    for name, optimizer, lr in (("SGD", SGD, 0.1), ("Adam", Adam, 0.01)):
        for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
            data = digits(dtype)
            alone, _ = train(world_of_one(), data, steps, SEED, optimizer, lr)
            together, model = train(ring, data, steps, SEED, optimizer, lr)
            receipt.below(f"largest gap to one process, {name}, {dtype}", bound, max(apart(alone, together)))
            receipt.true(f"replicas equal bit for bit, {name}, {dtype}", replicas_equal(world, model))
            if (name, dtype) == ("SGD", "float32"):
                curves = {"one process": alone, f"{world.size} ranks": together}
    data = digits("float32")
    with ledger.open():
        curves["without the sum"], _ = train(ring, data, steps, SEED, sync=lambda reducer, group: None)
        receipt.equal("bytes of gradients without the sum", 0, ledger.bytes[TAG])
        _, model = train(ring, data, 1, SEED)
    M = sum(p.data.nbytes for p in model.parameters())
    receipt.equal("M, the bytes of 2,410 parameters in float32", 4 * 2410, M)
    sent = sum(world.gather_objects(ledger.bytes[TAG]))
    receipt.equal("bytes that all ranks send in a step", 2 * (world.size - 1) * M, sent)
    samples = world.gather_objects(len(data.batch(0).part(world.rank, world.size).inputs))
    receipt.equal(f"samples of a step, {samples} together", B, sum(samples))
    off = max(apart(curves["one process"], curves["without the sum"]))
    receipt.true("largest gap without the sum", off > 0.1, "> 0.1", f"≈ {off:.2f}")
    return curves


# %% The picture
def draw(curves: dict[str, list[float]], path: str) -> None:
    """The curves, and below them the difference between the first two."""
    with figure(path, rows=2, height=4.0) as (top, bottom):
        for (name, curve), width in zip(curves.items(), (4, 1.5, 1.5), strict=True):  # two curves are one: both show
            top.plot(curve, label=name, linewidth=width)
        top.set_ylabel("loss")
        top.legend()
        one, many, _ = curves.values()
        gap = np.array(apart(one, many))
        zero = np.flatnonzero(gap == 0)  # a logarithm has no place for it
        bottom.semilogy(np.where(gap, gap, np.nan), ".-", color=INK, linewidth=0.8, markersize=3, label="difference")
        bottom.semilogy(zero, np.full(len(zero), 1e-9), "v", color=LINES[0], markersize=4, label="exactly 0")
        bottom.set(ylabel="difference of\nthe first two", xlabel="update", ylim=(3e-10, 1))
        bottom.legend(ncols=2)


# %% The run
def run(world: Communicator, options: argparse.Namespace) -> None:
    """Train on one process, on all ranks, and without the sum."""
    if world.size == 1:
        raise UserError("this lesson divides a batch: start it with mpirun -n 4 (or 2, or 3)")
    receipt = Receipt()
    curves = experiment(world, options.steps, receipt)
    if world.rank == 0:
        print(f"{options.steps} updates with {B} images of digits each; SGD, float32\n")
        print(chart(curves, "loss", "update"))
        if options.figure:
            draw(curves, options.figure)
    receipt.print(world)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="number of updates (default: 200)")
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch() as world:
        run(world, options)


if __name__ == "__main__":
    main()
