"""The same global batches on one process and on a mesh: is it the same training run?

`same_as_serial(world, case)` compares loss, every gradient before the step, the global norm and every parameter after
the steps with the run on one process, bytes by tag with the formula, and the memory held with the formula and with
tracemalloc, which knows nothing of the ledger.

The toy GPT carries traps on purpose: a tied embedding, a frozen parameter, an unused one, sizes and a batch that no
number of ranks divides, dropout, and with 4 ranks and 3 micro-batches some micro-batches are empty.
"""

import math
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minitrain import rng
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import ThreadCommunicator, world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Parameter
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Optimizer
from minitrain.parallel.reducer import Reducer
from minitrain.shares import share
from minitrain.train.build import reduce
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step
from tests.ranks import GLANCE

SEED, B, T, V, STEPS, BUCKET_MB = 3, 7, 5, 11, 3, 0.003
GRADIENTS = ("dp", "gradients")
Tensors = dict[str, np.ndarray]

# name -> (constructor, learning rate)
OPTIMIZERS: dict[str, tuple[Callable[[Reducer], Optimizer], float]] = {
    "sgd": (lambda gradients: SGD(gradients, momentum=0.9), 0.05),
    "adam": (lambda gradients: Adam(gradients, epsilon=1e-4), 0.01),
    "adam 1e-8": (lambda gradients: Adam(gradients, epsilon=1e-8), 0.01),
}
STRATEGIES = {"dp-naive": "naive", "dp-bucketed": "bucketed", "dp-overlap": "overlap"}


@dataclass(frozen=True)
class Case:
    """One run to be compared. Planted bugs enter through the last fields, and never touch the serial run."""

    strategy: str = "dp-bucketed"
    comm: str = "mpi"  # or "ring"
    optimizer: str = "sgd"
    accumulate: int = 1
    clip: float | None = None
    dtype: str = "float64"
    tied: bool = True
    dropout: float = 0.1
    B: int = B
    options: dict[str, Any] = field(default_factory=dict)  # of minitrain.train.build.reduce
    part: Callable[[Batch, int, int], Batch] = Batch.part
    seed: Callable[[int], int] = lambda rank: SEED

    @property
    def bound(self) -> float:
        """The largest difference allowed: rounding of the last digits, which epsilon 1e-8 amplifies."""
        return 2e-5 if self.dtype == "float32" else 1e-9 if "1e-8" in self.optimizer else 1e-12


@dataclass
class Row:
    """What came out, one line of the matrix. Bytes are of all ranks per step, memory is of one rank."""

    strategy: str
    mesh: str
    comm: str
    optimizer: str
    dtype: str
    accumulate: int
    clip: float | None
    max_dloss: float
    max_dnorm: float
    max_dgradient: float
    max_dparameter: float
    bytes: int
    bytes_theory: int
    bytes_kind: str
    memory: int | None  # None where ranks are threads: tracemalloc sees a process
    memory_theory: int
    memory_witness: int | None
    bytes_per_rank_ok: bool  # each rank and tag as the formula says, and no other tag
    work: float  # FLOPs of all ranks / FLOPs of the serial run
    replicas_equal: bool
    ok: bool = False


def toy_gpt(dtype: str = "float64", tied: bool = True, dropout: float = 0.1) -> Model:
    """A GPT of odd sizes, with every parameter drawn at 0.3 so that errors show."""
    model = gpt(GPTConfig(V, T, layers=2, heads=3, width=9, dropout=dropout, tied=tied, dtype=dtype))
    block: Any = model.units[1]
    block.unused = Parameter("blocks.0.unused", (5, 3), dtype=dtype)
    block.norm2.bias.requires_grad = False
    for p in model.parameters():
        p.std = 0.3
    return model


def toy_batch(number: int, samples: int = B) -> Batch:
    """Global batch `number`: `samples` rows of 5 ids, the same on every rank."""
    ids = rng.integers(rng.key(SEED, "toy", number), samples * (T + 1), V).reshape(samples, T + 1)
    return Batch(ids[:, :-1], ids[:, 1:], Where(SEED, number, samples, T, slice(0, samples), slice(0, T)))


@dataclass
class Run:
    """What a run leaves behind, as logical tensors."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[Tensors] = field(default_factory=list)  # before each step, after clipping
    parameters: Tensors = field(default_factory=dict)  # after the last step
    held: Tensors = field(default_factory=dict)  # the same, as this rank holds them
    ledger: Ledger = field(default_factory=Ledger)
    reduced: list[int] = field(default_factory=list)  # bytes of each array that is added up over the ranks


class Training:
    """A model with its reducer and optimizer on a mesh, ready for steps."""

    def __init__(self, world: Communicator, case: Case, how: str) -> None:
        self.case, self.world = case, world
        self.model = toy_gpt(case.dtype, case.tied, case.dropout)
        mesh, seed = Mesh(world, dp=world.size), case.seed(world.rank)
        self.gradients = reduce(self.model, mesh, how, BUCKET_MB, seed, **case.options)
        make, self.lr = OPTIMIZERS[case.optimizer]
        self.optimizer = make(self.gradients)

    def step(self, number: int) -> tuple[float, float]:
        mine = self.case.part(toy_batch(number, self.case.B), self.world.rank, self.world.size)
        return train_step(
            self.model, mine, self.gradients, self.optimizer, self.lr, self.case.accumulate, self.case.clip
        )


def train(world: Communicator, case: Case, how: str) -> Run:
    """Some steps on the ranks of `world`, with everything written down."""
    run = Run()
    with run.ledger.open():
        training = Training(world, case, how)
        update = training.optimizer.step

        def step(lr: float) -> None:
            run.gradients.append(gather(training.model, world, "grad"))
            update(lr)

        training.optimizer.step = step  # type: ignore[method-assign]
        for number in range(STEPS):
            loss, norm = training.step(number)
            run.losses.append(sum(world.gather_objects(loss)))
            run.norms.append(norm)
        run.parameters = gather(training.model, world)
        run.held = {p.placement.path: p.data.copy() for p in training.model.parameters()}
        for bucket in training.gradients.trained:
            lengths = [p.data.size for p in bucket.parameters] if how == "naive" else [bucket.size]
            run.reduced += [n * bucket.dtype.itemsize for n in lengths]
        training.gradients.close()
    return run


def held_bytes(world: Communicator, case: Case, how: str) -> tuple[int, int]:
    """(by the ledger, by tracemalloc): bytes that parameters, gradients and optimizer occupy after a step.

    The runner's thread that notes where a rank stands may keep a frame and its arrays for a moment: so tracemalloc is
    asked three times, and what was there each time counts.
    """
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    ledger = Ledger()
    tracemalloc.start()
    with ledger.open():
        before = _traced(arrays)
        training = Training(world, case, how)
        training.step(0)
        after = _traced(arrays)
        for _ in range(2):
            time.sleep(GLANCE)
            after = min(after, _traced(arrays))
        held = ledger.live["parameters"] + ledger.live["gradients"] + ledger.live["optimizer"]
        training.gradients.close()
    tracemalloc.stop()
    return held, after - before


def _traced(arrays: tracemalloc.DomainFilter) -> int:
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


def rank_bytes(sizes: list[int], item: int, world: Communicator) -> int:
    """What one rank sends in ring all-reduces of arrays of these sizes: of each, twice all but a share."""
    total = 0
    for size in sizes:
        shares = [share(size // item, world.size, (world.rank + ahead) % world.size) for ahead in (0, 1)]
        total += 2 * size - sum(cut.stop - cut.start for cut in shares) * item
    return total


def theory(world: Communicator, case: Case) -> tuple[int, int]:
    """(bytes of gradients sent by all ranks per step, bytes held by one rank).

    Data parallel: 2 (N-1) M with M the bytes of the trained parameters; and all of parameters, gradients and states.
    """
    parameters = toy_gpt(case.dtype, case.tied, case.dropout).parameters()
    item = np.dtype(case.dtype).itemsize
    every = sum(math.prod(p.shape) for p in parameters) * item
    trained = sum(math.prod(p.shape) for p in parameters if p.requires_grad) * item
    states = 1 if case.optimizer == "sgd" else 2
    return 2 * (world.size - 1) * trained, every + trained * (1 + states)


def difference(a: Tensors, b: Tensors) -> float:
    """The largest max|a - b| / max(max|b|, 1e-3 x the largest |b| of all tensors).

    An elementwise ratio would mean nothing: some true gradients, such as the key bias's, are zero.
    """
    assert a.keys() == b.keys(), f"different tensors: {a.keys() ^ b.keys()}"
    floor = 1e-3 * max(np.abs(x).max(initial=0) for x in b.values())
    return max(float(np.abs(a[k] - b[k]).max(initial=0) / max(np.abs(b[k]).max(initial=0), floor)) for k in b)


def same_as_serial(world: Communicator, case: Case) -> Row:
    """Runs the case on one process and on `world`; called by all ranks, the row is complete on each."""
    on_threads = isinstance(world, ThreadCommunicator)
    world = RingCommunicator(world) if case.comm == "ring" else world
    how = STRATEGIES[case.strategy]
    serial = train(world_of_one(), replace(case, options={}, part=Batch.part, seed=lambda rank: SEED), "bucketed")
    run = train(world, case, how)
    _without_key_bias(case, serial, run)
    mine = run.ledger.bytes + run.ledger.charged  # counters, which leave out the tags of 0 bytes when added
    mine_theory = +Counter({GRADIENTS: STEPS * rank_bytes(run.reduced, np.dtype(case.dtype).itemsize, world)})
    bytes_theory, memory_theory = theory(world, case)
    memory, witness = (None, None) if on_threads else held_bytes(world, case, how)
    bits = world.gather_objects({path: array.tobytes() for path, array in run.held.items()})
    row = Row(
        case.strategy, f"dp{world.size}", "threads" if on_threads else case.comm, case.optimizer, case.dtype,
        case.accumulate, case.clip,
        max_dloss=_relative(run.losses, serial.losses),
        max_dnorm=_relative(run.norms, serial.norms),
        max_dgradient=max(map(difference, run.gradients, serial.gradients)),
        max_dparameter=difference(run.parameters, serial.parameters),
        bytes=sum(sum(counter.values()) for counter in world.gather_objects(mine)) // STEPS,
        bytes_theory=bytes_theory,
        bytes_kind="charged" if any(world.gather_objects(run.ledger.charged[GRADIENTS])) else "counted",
        memory=memory, memory_theory=memory_theory, memory_witness=witness,
        bytes_per_rank_ok=mine == mine_theory,
        work=sum(world.gather_objects(run.ledger.flops)) / serial.ledger.flops,
        replicas_equal=all(other == bits[0] for other in bits),
    )  # fmt: skip
    row.ok = not any(world.gather_objects(wrong(row, case)))
    return row


def wrong(row: Row, case: Case) -> list[str]:
    """The columns that are not as they should be. (NaN is never within a bound.)"""
    memory = row.memory is None or row.memory_witness is None or (
        row.memory == row.memory_theory and abs(row.memory_witness - row.memory) <= 0.03 * row.memory
    )  # fmt: skip
    fine = {
        "loss": row.max_dloss <= case.bound,
        "norm": row.max_dnorm <= case.bound,
        "gradients": row.max_dgradient <= case.bound,
        "parameters": row.max_dparameter <= case.bound,
        "bytes": row.bytes == row.bytes_theory and row.bytes_per_rank_ok,
        "memory": memory,
        "work": row.work == 1,
        "replicas": row.replicas_equal,
    }
    return [name for name, well in fine.items() if not well]


def _relative(found: list[float], true: list[float]) -> float:
    assert len(found) == len(true)
    return max(abs(a - b) / abs(b) for a, b in zip(found, true, strict=True))


def _without_key_bias(case: Case, *runs: Run) -> None:
    """Its true gradient is zero; Adam with a tiny epsilon makes steps of full size out of the rounding errors."""
    if "1e-8" not in case.optimizer:
        return
    for run in runs:
        for tensors in (*run.gradients, run.parameters):
            for path in tensors:
                if path.endswith("qkv.bias"):
                    tensors[path] = tensors[path][[0, 2]]
