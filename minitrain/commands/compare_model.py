"""Compare a user's model on a mesh with the same model on one process, step by step.

    mpirun -n 4 python -m minitrain compare model FILE.py:make_model --tp 2 --sp

It compares numbers, so it finds mistakes that no other check can see, such as a softmax over divided columns. The
distance of a tensor a from b, its value on one process, is max|a - b| / max(max|b|, 1e-3 x the largest |b| of all
tensors of its kind). An elementwise ratio would mean nothing: some true gradients are 0.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..comm.ring import RingCommunicator
from ..comm.threads import world_of_one
from ..data.batch import Batch, checksum_of
from ..errors import UserError, check_whole
from ..models import Model
from ..nn import Module
from ..optim import SGD
from ..parallel.parallelize import parallelize
from ..parallel.plan_checks import path_of
from ..parallel.strategy import GradDtype, Strategy
from ..runtime.launch import launch
from ..train.checkpoint import gather
from ..train.progress import Progress
from ..train.step import compute_gradients
from .config import TrainConfig
from .options import DataOptions, OptimizerOptions, ParallelOptions, RunOptions, StrategyOptions, make_mesh
from .own_model import OwnFile
from .run_differences import Apart, Step, apart, farthest, first_beyond, listed, parameters, size, table, verdict

SIZES = ("vocabulary", "context", "batch")  # options for batches of ids
INEXACT = """
Some parameters are not float64: the bound is that of float32, and smaller
differences go unnoticed. For a bound of 1e-12, give the model dtype="float64"."""


@dataclass(frozen=True)
class MeshOptions(ParallelOptions):
    """How the ranks divide the work, as in train."""

    memory_mb: tyro.conf.Suppress[float | None] = None


@dataclass(frozen=True)
class FullStrategy(StrategyOptions):
    """How the model, gradients and activations are stored and sent, as in train."""

    grad_dtype: tyro.conf.Suppress[GradDtype] = "full"


@dataclass(frozen=True)
class CompareModelOptions:
    """The model, the batches and the mesh of a comparison."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE.py:make_model")]
    """A Python file and the function in it that returns a new minitrain.models.Model.
    If the file has make_batch(number), it returns the global batches, with labels; otherwise, they are random ids."""
    steps: int = 3
    """Number of updates. A few suffice; rounding errors grow with each."""
    lr: float = 0.05
    """Learning rate of SGD, with momentum 0.9."""
    vocabulary: int | None = None
    """Vocabulary of the random ids. None: the rows of the model's first nn.Embedding."""
    context: int | None = None
    """Ids per sample. None: 7, or the rows of the second nn.Embedding (positions) if it has fewer."""
    batch: int | None = None
    """Samples per update, over all ranks. None: 2 x --dp x --accumulate + 1."""
    seed: int = 1
    """Seed of initial values, dropout and ids."""
    check: bool = True
    """Reject a model whose division fails the checks of the first steps; --no-check compares it anyway."""
    parallel: MeshOptions = field(default_factory=MeshOptions)
    strategy: FullStrategy = field(default_factory=FullStrategy)

    def sizes(self, world: Communicator) -> dict[str, int]:
        """Return axis of the mesh -> size. Raise UserError for invalid options."""
        for name in SIZES:
            if getattr(self, name) is not None:
                check_whole(f"--{name}", getattr(self, name), 1)
        config = TrainConfig(
            data=DataOptions(batch=self.batch or 1),
            optimizer=OptimizerOptions(self.steps, self.lr, weight_decay=0.0),
            parallel=self.parallel,
            strategy=self.strategy,
            report=RunOptions(self.seed),
        )
        config.check_each()
        mesh = make_mesh(world, self.parallel)
        self.strategy.check_on(mesh, self.parallel.accumulate)
        config.check(mesh.parts("samples") if self.batch else 0)  # the default batch is large enough
        return mesh.sizes


class Sides(NamedTuple):
    """The losses of each step on one process and on the mesh, and the distances; the same on every rank."""

    losses: list[tuple[float, float]]
    found: list[Apart]
    unused: list[str]  # parameters whose gradient on one process was 0 in every step


class Comparison(NamedTuple):
    """The verdict, the distance of each step, and the report; the same on every rank."""

    equal: bool
    steps: list[Apart]
    text: str


def compare_model(options: CompareModelOptions, world: Communicator) -> Comparison:
    """Compare the model on one process with the model on the ranks of `world`. All ranks call it.

    Raise UserError for invalid options, an unusable file, or a model that cannot be divided in this way.
    """
    sizes = options.sizes(world)
    file = agreed(world, lambda: OwnFile(options.model))
    one, other = agreed(world, file.models)
    asked = {name: getattr(options, name) for name in SIZES}
    samples = 2 * sizes["dp"] * options.parallel.accumulate + 1
    batches = agreed(world, lambda: file.batches(one, options.steps, options.seed, asked, samples))
    check_same(world, {f"checksum of batch {i}": checksum_of(batch) for i, batch in enumerate(batches)})
    exact = all(p.dtype == np.float64 for p in one.parameters())
    with np.errstate(over="ignore", invalid="ignore"):
        losses, found, unused = side_by_side(world, file, options, (one, other), batches)
    where = " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1) or "nothing is divided"
    heading = f"{file.path.name} on {world.size} rank(s), {where}, compared with one process{'' if exact else INEXACT}"
    bound = 1e-12 if exact else 2e-5
    text = [heading, division(world, one, other), table(losses, found), parameters(found, bound)]
    text = [part for part in (*text, verdict(found, bound, unused)) if part]
    return Comparison(first_beyond(found, bound) is None, found, "\n".join(text))


def side_by_side(
    world: Communicator, file: OwnFile, o: CompareModelOptions, models: tuple[Model, Model], batches: Sequence[Batch]
) -> Sides:
    """Train on the mesh and, on every rank, on one process. Raise UserError if the loss diverges or the model fails."""
    serial = run(world_of_one(), models[0], o, ParallelOptions(), Strategy(), batches)
    mesh = run(world, models[1], o, o.parallel, replace(o.strategy, check=o.check), batches)
    losses: list[tuple[float, float]] = []
    found: list[Apart] = []
    used: dict[str, bool] = {}
    for number in Progress(world).watch(range(len(batches)), len(batches), "comparison", "updates"):
        true = agreed(world, lambda: file.alone(serial))
        if not math.isfinite(true.loss):
            raise UserError(f"the loss on one process is {true.loss} after {number} updates; give a smaller --lr")
        with file.blamed("runs on one process, but on the mesh it", all_errors=False):
            here = next(mesh)
        found.append(farthest(world.gather_objects(apart(here, true))))
        losses.append((true.loss, here.loss))
        used |= {path: used.get(path, False) or size(g) > 0 for path, g in true.gradients.items()}
    for ended in (serial, mesh):
        next(ended, None)
    return Sides(losses, found, [path for path, is_used in used.items() if not is_used])


def division(world: Communicator, one: Model, other: Model) -> str:
    """Describe how much of a model is divided, and which modules with matrices are not. Return "" if nothing is.

    one: the same model, undivided.
    """
    divided = [p.placement.path for p in other.parameters() if p.placement.local != p.placement.shape]
    paths = {path for stage in world.gather_objects(divided) for path in stage}
    every = {p.placement.path: math.prod(p.placement.shape) for p in one.parameters()}
    if not paths:
        return ""
    shard_of = sum(every[path] for path in paths) / sum(every.values())
    text = f"divided along tp: {len(paths)} of {len(every)} parameters, {shard_of:.0%} of the elements"
    left = [path for unit in one.units for path in undivided(unit, paths)]
    return listed(f"{text}; not in", left) if left else text


def undivided(module: Module, paths: set[str]) -> list[str]:
    """Return the paths of the outermost modules that have a matrix but no divided parameter."""
    parameters = module.parameters()
    if any(p.placement.path in paths for p in parameters):
        return [path for _, child in module.children() for path in undivided(child, paths)]
    return [path_of(module)] if any(len(p.placement.shape) > 1 for p in parameters) else []


def run(
    world: Communicator,
    model: Model,
    o: CompareModelOptions,
    p: ParallelOptions,
    strategy: Strategy,
    batches: Sequence[Batch],
) -> Iterator[Step]:
    """Yield the training steps. The model is divided when the first one is requested."""
    world = RingCommunicator(world) if p.comm == "ring" else world
    mesh = make_mesh(world, p)
    reducer = parallelize(model, mesh, strategy)
    reducer.init(o.seed)
    optimizer = SGD(reducer, momentum=0.9)
    for batch in batches:
        part = batch.part(mesh.part("samples"), mesh.parts("samples"))
        loss = compute_gradients(model, part, reducer, p.accumulate)
        loss = sum(mesh.over("samples", "layers").gather_objects(loss))  # the ranks along tp all have the same part
        before = gather(model, world, "grad", reducer)
        optimizer.step(o.lr)
        reducer.gather_parameters()
        yield Step(loss, before, gather(model, world, "data", reducer))
    reducer.close()


@dataclass(frozen=True)
class CompareModel(CompareModelOptions):
    """Check that your own model trains on a mesh as it does on one process.

    mpirun -n 4 python -m minitrain compare model my.py:make_model --tp 2 --sp

    Loss, gradients and parameters must agree to 1e-12, in float64.

    Exit status: 0 if they agree, 1 if any differ, 2 if the model is rejected.
    """

    def run(self) -> int:
        """Print the tables and the verdict; return the status."""
        with launch() as world:
            with Progress(world).task("comparison"):
                found = compare_model(self, world)
            if world.rank == 0:
                print(found.text, flush=True)
        return 0 if found.equal else 1
