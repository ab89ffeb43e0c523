"""The same global batches on one process and on a mesh: are loss, gradients, norm and parameters the same?

The toy GPT carries traps on purpose: a tied embedding, a frozen parameter, an unused one, sizes and a batch that no
number of ranks divides, dropout, and with 4 ranks and 3 micro-batches some micro-batches are empty.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minitrain import rng
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Parameter
from minitrain.optim import SGD, Adam, Optimizer
from minitrain.parallel.reducer import Reducer
from minitrain.train.build import reduce
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step

SEED, B, T, V = 3, 7, 5, 11
OPTIMIZERS: dict[str, tuple[Callable[[Reducer], Optimizer], float]] = {
    "sgd": (lambda gradients: SGD(gradients, momentum=0.9), 0.05),
    "adam": (lambda gradients: Adam(gradients, epsilon=1e-4), 0.01),
}
Tensors = dict[str, np.ndarray]


def toy_gpt(dtype: str = "float64", tied: bool = True) -> Model:
    """A GPT of odd sizes, with every parameter drawn at 0.3 so that errors show."""
    model = gpt(GPTConfig(V, T, layers=2, heads=3, width=9, dropout=0.1, tied=tied, dtype=dtype))
    block: Any = model.units[1]
    block.unused = Parameter("blocks.0.unused", (5, 3), dtype=dtype)
    block.norm2.bias.requires_grad = False
    for p in model.parameters():
        p.std = 0.3
    return model


def toy_batch(number: int) -> Batch:
    """Global batch `number`: 7 samples of 5 ids, the same on every rank."""
    ids = rng.integers(rng.key(SEED, "toy", number), B * (T + 1), V).reshape(B, T + 1)
    return Batch(ids[:, :-1], ids[:, 1:], Where(SEED, number, B, T, slice(0, B), slice(0, T)))


@dataclass
class Run:
    """What a run leaves behind, as logical tensors."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[Tensors] = field(default_factory=list)  # before each step, after clipping
    parameters: Tensors = field(default_factory=dict)  # after the last step
    held: Tensors = field(default_factory=dict)  # the same, as this rank holds them


def train(
    world: Communicator,
    how: str,
    optimizer: str = "sgd",
    steps: int = 3,
    accumulate: int = 1,
    clip: float | None = None,
    model: Callable[[], Model] = toy_gpt,
    **options: Any,
) -> Run:
    """Trains the model on the ranks of `world`; options go to the reducer (planted bugs enter here)."""
    mesh = Mesh(world, dp=world.size)
    built, run = model(), Run()
    gradients = reduce(built, mesh, how, bucket_mb=0.003, seed=SEED, **options)
    make, lr = OPTIMIZERS[optimizer]
    stepper = make(gradients)
    update = stepper.step

    def step(lr: float) -> None:
        run.gradients.append(gather(built, world, "grad"))
        update(lr)

    stepper.step = step  # type: ignore[method-assign]
    for number in range(steps):
        mine = toy_batch(number).part(world.rank, world.size)
        loss, norm = train_step(built, mine, gradients, stepper, lr, accumulate, clip)
        run.losses.append(sum(world.gather_objects(loss)))
        run.norms.append(norm)
    run.parameters = gather(built, world)
    run.held = {p.placement.path: p.data.copy() for p in built.parameters()}
    return run


def difference(a: Tensors, b: Tensors) -> float:
    """The largest max|a - b| / max(max|b|, 1e-3 x the largest |b| of all tensors).

    An elementwise ratio would mean nothing: some true gradients, such as the key bias's, are zero.
    """
    assert a.keys() == b.keys(), f"different tensors: {a.keys() ^ b.keys()}"
    floor = 1e-3 * max(np.abs(x).max(initial=0) for x in b.values())
    return max(float(np.abs(a[k] - b[k]).max(initial=0) / max(np.abs(b[k]).max(initial=0), floor)) for k in b)


def same_as_serial(world: Communicator, how: str, bound: float = 1e-12, **settings: Any) -> None:
    """Asserts that the run on `world` is the run on one process, and that the replicas hold equal bits."""
    options = settings.pop("options", {})
    serial = train(world_of_one(), "bucketed", **settings)
    run = train(world, how, **settings, **options)
    for step, (loss, true) in enumerate(zip(run.losses, serial.losses, strict=True)):
        assert abs(loss - true) <= bound * abs(true), f"loss of step {step}: {loss}, serial {true}"
    for step, (norm, true) in enumerate(zip(run.norms, serial.norms, strict=True)):
        assert abs(norm - true) <= bound * true, f"norm of step {step}: {norm}, serial {true}"
    for step, (found, truth) in enumerate(zip(run.gradients, serial.gradients, strict=True)):
        assert difference(found, truth) <= bound, f"gradients of step {step} differ by {difference(found, truth):.1e}"
    assert difference(run.parameters, serial.parameters) <= bound, "parameters differ"
    bits = world.gather_objects({path: array.tobytes() for path, array in run.held.items()})
    assert all(other == bits[0] for other in bits), "the replicas are not equal bit for bit"
