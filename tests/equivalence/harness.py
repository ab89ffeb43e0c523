"""Train on the same global batches on one process and on a mesh: is it the same training run?

`same_as_serial(world, case)` compares the loss, every gradient before the step, the global norm and every parameter
after the steps with the run on one process. It compares the bytes sent under each tag and the FLOPs of every rank with
the planner's formulas (minitrain/planner), and the memory held with them and with tracemalloc, which is independent of
the ledger.

The toy GPT contains traps on purpose: a tied embedding, a frozen parameter, an unused one, dropout, and sizes and a
batch that no number of ranks divides. With 4 ranks and 3 micro-batches, some micro-batches are empty.
"""

import math
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from minitrain import rng
from minitrain.backend import to_host
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import ThreadCommunicator, world_of_one
from minitrain.data.batch import IGNORE, Batch, Where
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Parameter
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Optimizer
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.pipeline import HEADER
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import CHECKPOINT, Zero3
from minitrain.planner.events import Message
from minitrain.planner.setup import Setup
from minitrain.planner.sizes import Sizes, Weight
from minitrain.planner.step import TOTAL, Rank
from minitrain.precision import Scaler
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step
from minitrain.train.weights import look, start_from
from tests.ranks import GLANCE
from tests.train import gpt2_files

SEED, B, T, V, STEPS, BUCKET_MB = 3, 7, 5, 11, 3, 0.003
STATES = ("parameters", "gradients", "optimizer")  # the ledger's kinds that persist between steps
Tensors = dict[str, np.ndarray]

# name -> (constructor, learning rate)
OPTIMIZERS: dict[str, tuple[Callable[[Reducer], Optimizer], float]] = {
    "sgd": (lambda reducer: SGD(reducer, momentum=0.9), 0.05),
    "adam": (lambda reducer: Adam(reducer, epsilon=1e-4), 0.01),
    "adam 1e-8": (lambda reducer: Adam(reducer, epsilon=1e-8), 0.01),
}
STRATEGIES = {
    "dp-naive": Strategy(reduce="naive"),
    "dp-bucketed": Strategy(),
    "dp-overlap": Strategy(reduce="overlap"),
    "zero1": Strategy(zero=1),
    "zero2": Strategy(zero=2),
    "zero3": Strategy(zero=3),
    "zero1-overlap": Strategy(zero=1, reduce="overlap"),
    "zero2-overlap": Strategy(zero=2, reduce="overlap"),
    "zero2-once": Strategy(zero=2, reduce_once=True),
    "zero3-once": Strategy(zero=3, reduce_once=True),
    "zero3-prefetch": Strategy(zero=3, reduce="overlap", prefetch=True),
}


def same_seed(rank: int) -> int:
    """Return the same seed on every rank."""
    return SEED


@dataclass(frozen=True)
class Case:
    """One run to compare. The last fields inject planted bugs; they never affect the serial run."""

    strategy: str = "dp-bucketed"
    comm: str = "mpi"  # or "ring"
    optimizer: str = "sgd"
    accumulate: int = 1
    clip: float | None = None
    recompute: int = 0  # units per recomputed segment; 0: no recompute
    layout: str = "dp"  # or "tp", "sp", "pp", "pp+tp", "pp+sp": how the ranks not in dp divide the model
    tp: int = 0  # ranks that divide the matrices; 0: all that remain
    pp: int = 1  # ranks that divide the layers
    schedule: str = "1f1b"
    layers: int = 2
    heads: int = 3  # of the toy model; each head is 3 wide
    dtype: str = "float64"
    tied: bool = True
    dropout: float = 0.1
    B: int = B
    ignore: bool = False  # ignore some labels, a different number on each rank and in each micro-batch
    start: str = ""  # "imported": from the files of a GPT-2; the serial run has the "same values", set by hand
    scaler: Callable[[], Scaler] | None = None  # creates the loss scaler; the serial run has none
    make: Callable[[Reducer], Optimizer] | None = None  # creates the optimizer, also for the serial run
    hooks: dict[str, Any] = field(default_factory=dict, hash=False)  # hooks passed to parallelize
    part: Callable[[Batch, int, int], Batch] = Batch.part
    seed: Callable[[int], int] = same_seed

    @property
    def serial(self) -> "Case":
        """The one-process run to compare with; many cases share it."""
        return replace(
            self, strategy="dp-bucketed", comm="mpi", layout="dp", tp=0, pp=1, schedule="1f1b", recompute=0,
            scaler=None, hooks={}, part=Batch.part, seed=same_seed, start="same values" if self.start else "",
        )  # fmt: skip

    @property
    def how(self) -> str:
        """The name of the gradient reducer."""
        return STRATEGIES[self.strategy].reducer

    def parallel(self, mesh: Mesh) -> Strategy:
        """Return the strategy: how the model is divided and how gradients are reduced."""
        strategy = replace(STRATEGIES[self.strategy], bucket_mb=BUCKET_MB, recompute=self.recompute)
        if mesh.sizes["tp"] > 1:
            strategy = replace(strategy, sp="sp" in self.layout)
        if mesh.sizes["pp"] > 1:
            strategy = replace(strategy, schedule=self.schedule)
        return strategy

    def mesh(self, world: Communicator) -> Mesh:
        """Return the mesh of this case: dp x pp x tp."""
        if world.size == 1:
            return Mesh(world)
        tp = self.tp or world.size // self.pp if "tp" in self.layout or "sp" in self.layout else 1
        return Mesh(world, dp=world.size // tp // self.pp, pp=self.pp, tp=tp)

    def toy(self) -> Model:
        """Return a fresh toy model."""
        if self.start:
            return started_gpt(self)
        return toy_gpt(self.dtype, self.tied, self.dropout, self.heads, self.layers)

    @property
    def bound(self) -> float:
        """The largest allowed difference: rounding in the last digits, which epsilon 1e-8 amplifies."""
        return 2e-5 if self.dtype == "float32" else 1e-9 if "1e-8" in self.optimizer else 1e-12


@dataclass
class Row:
    """The result of one case: one row of the matrix. Bytes are summed over ranks, per step; memory is per rank."""

    strategy: str
    mesh: str
    comm: str
    optimizer: str
    dtype: str
    accumulate: int
    clip: float | None
    recompute: int
    max_dloss: float
    max_dnorm: float
    max_dgradient: float
    max_dparameter: float
    bytes: int
    bytes_theory: int
    bytes_kind: str
    memory: int | None  # None if ranks are threads: tracemalloc measures a process
    memory_theory: int
    memory_witness: int | None
    bytes_per_rank_ok: bool  # every rank and tag matches the formula, and there is no other tag
    flops_per_rank_ok: bool  # every rank's FLOPs match the formula
    replicas_equal: bool
    ok: bool = False


def toy_gpt(dtype: str = "float64", tied: bool = True, dropout: float = 0.1, heads: int = 3, layers: int = 2) -> Model:
    """Return a GPT with odd sizes. Every parameter has init_std 0.3, large enough for errors to show."""
    model = gpt(GPTConfig(V, T, layers, heads, width=3 * heads, dropout=dropout, tied=tied, dtype=dtype))
    block: Any = model.units[1]
    block.unused = Parameter("blocks.0.unused", (5, 3), dtype=dtype)
    block.norm2.bias.requires_grad = False
    for p in model.parameters():
        p.init_std = 0.3
    return model


def started_gpt(case: Case) -> Model:
    """Return a GPT that starts from the values of a GPT-2: read from files, or as arrays."""
    assert case.tied
    model = gpt(GPTConfig(V, T, case.layers, case.heads, 3 * case.heads, case.dropout, dtype=case.dtype, epsilon=1e-3))
    model.units[1].norm2.bias.requires_grad = False  # type: ignore[attr-defined]
    if case.start == "imported":
        start_from(model, look(Path(gpt2_folder(case.dtype, case.heads, case.layers).name)))
        return model
    arrays = gpt2_files.ours(gpt2_values(case.dtype, case.heads, case.layers), case.heads)
    for p in model.parameters():
        p.start = arrays[p.placement.path]
    return model


def gpt2_values(dtype: str, heads: int, layers: int) -> Tensors:
    """Return the tensors of a GPT-2 with the sizes of the toy model, under GPT-2's names."""
    return gpt2_files.theirs(dtype, V=V, T=T, L=layers, D=3 * heads)


@cache
def gpt2_folder(dtype: str, heads: int, layers: int) -> TemporaryDirectory[str]:
    """Return a folder with the files of this GPT-2, which exists as long as this process."""
    made: TemporaryDirectory[str] = TemporaryDirectory()
    sizes = {"vocab_size": V, "n_positions": T, "n_layer": layers, "n_head": heads, "n_embd": 3 * heads}
    gpt2_files.write(Path(made.name), gpt2_values(dtype, heads, layers), files=2, **sizes)
    return made


def toy_batch(number: int, samples: int = B, ignore: bool = False) -> Batch:
    """Return global batch `number`: `samples` rows of T = 5 ids, the same on every rank.

    ignore: mask all labels of the last three rows, which are all that the last of two or three ranks has, and about a
    third of the others.
    """
    ids = rng.integers(rng.key(SEED, "toy", number), samples * (T + 1), V).reshape(samples, T + 1)
    labels = ids[:, 1:]
    if ignore:
        labels = labels.copy()
        labels[-3:] = IGNORE
        labels[labels % 3 == number % 3] = IGNORE
    return Batch(ids[:, :-1], labels, Where(SEED, number, samples, T, slice(0, samples), slice(0, T)))


@dataclass
class Run:
    """The results of a run, as logical tensors."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[Tensors] = field(default_factory=list)  # before each step, after clipping
    parameters: Tensors = field(default_factory=dict)  # after the last step
    held: Tensors = field(default_factory=dict)  # the same values, as this rank holds them
    ledger: Ledger = field(default_factory=Ledger)


class Training:
    """A model on a mesh with its reducer and optimizer, ready to train."""

    def __init__(self, world: Communicator, case: Case) -> None:
        self.case, self.world = case, world
        self.model, self.mesh = case.toy(), case.mesh(world)
        self.reducer = parallelize(self.model, self.mesh, case.parallel(self.mesh), **case.hooks)
        self.reducer.init(case.seed(world.rank))
        if isinstance(self.reducer, Zero3):
            self.reducer.nan_fill = True
        make, self.lr = OPTIMIZERS[case.optimizer]
        self.optimizer = (case.make or make)(self.reducer)
        self.scaler = case.scaler() if case.scaler else Scaler()

    def step(self, number: int) -> tuple[float, float]:
        """Train on global batch `number` and return (loss, norm)."""
        batch = toy_batch(number, self.case.B, self.case.ignore)
        mine = self.case.part(batch, self.mesh.coordinates["dp"], self.mesh.sizes["dp"])
        k, clip = self.case.accumulate, self.case.clip
        return train_step(self.model, mine, self.reducer, self.optimizer, self.lr, k, clip, self.scaler)

    def gather(self, what: str) -> Tensors:
        """Return the logical tensors. On one process, read gradients directly: the gather code is under test."""
        if what == "grad" and self.world.size == 1:
            found = {p.placement.path: to_host(p.grad) for p in self.model.parameters() if p.grad is not None}
            return clipped(found, self.case.clip)
        return gather(self.model, self.world, what, self.reducer)


def clipped(gradients: Tensors, limit: float | None) -> Tensors:
    """Return copies whose joint norm is at most `limit`."""
    length = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    factor = limit / length if limit and length > limit else 1.0
    return {path: g * g.dtype.type(factor) for path, g in gradients.items()}


def train(world: Communicator, case: Case) -> Run:
    """Train for STEPS steps on the ranks of `world` and record everything."""
    run = Run()
    with run.ledger.open():
        training = Training(world, case)
        update = training.optimizer.step

        def step(lr: float) -> None:
            run.gradients.append(training.gather("grad"))
            update(lr)

        training.optimizer.step = step  # type: ignore[method-assign]
        for number in range(STEPS):
            loss, norm = training.step(number)
            run.losses.append(sum(training.mesh.group("dp", "pp").gather_objects(loss)))
            run.norms.append(norm)
        run.parameters = training.gather("data")
        if case.how != "zero3":  # under ZeRO-3 no rank holds a replica
            run.held = {f"{p.placement.path} {p.placement.index}": p.data.copy() for p in training.model.parameters()}
        training.reducer.close()
    return run


@cache
def serial_run(case: Case) -> Run:
    """Run a serial case once for all the cases that compare with it. The returned arrays are read-only."""
    run = train(world_of_one(), case)
    _without_key_bias(case, run)
    for tensors in (*run.gradients, run.parameters, run.held):
        for array in tensors.values():
            array.flags.writeable = False
    return run


def held_bytes(world: Communicator, case: Case, theory: int) -> tuple[int, int]:
    """Return (ledger, tracemalloc): bytes of parameters, gradients and optimizer state after a step.

    The runner's thread that samples each rank's position may briefly keep a frame and its arrays alive. So a
    measurement that differs from the theory is repeated up to twice, and the minimum counts.
    """
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    ledger = Ledger()
    tracemalloc.start()
    with ledger.open():
        before = _traced(arrays)
        training = Training(world, case)
        training.step(0)
        looks = []
        for pause in (0, GLANCE, GLANCE):
            time.sleep(pause)
            looks.append((sum(ledger.live[k] for k in STATES), _traced(arrays) - before))
            if as_in_theory(*looks[-1], theory):
                break
        training.reducer.close()
    tracemalloc.stop()
    held, witness = (min(found) for found in zip(*looks, strict=True))
    return held, witness


def as_in_theory(held: int, witness: int, theory: int) -> bool:
    """Return whether the ledger matches the theory exactly and tracemalloc is within 3% of the ledger."""
    return held == theory and abs(witness - held) <= 0.03 * held


def _traced(arrays: tracemalloc.DomainFilter) -> int:
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


# Formulas -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy(Setup):
    """A step on the toy model, for the planner. started: the model starts from given values and has no `unused`."""

    started: bool = False

    def weights(self, unit: int) -> tuple[Weight, ...]:
        """Return the parameters of a unit; block 0 has a frozen one and an unused one."""
        found = super().weights(unit)
        if unit != 1:
            return found
        found = tuple(replace(w, trained=w.path != "blocks.0.norm2.bias") for w in found)
        return found if self.started else (*found, Weight("blocks.0.unused", (5, 3), (1,)))


def planned(case: Case, mesh: Mesh) -> Rank:
    """Return this rank's step as the planner predicts it."""
    setup = Toy(
        Sizes("gpt", V, T, case.layers, case.heads, 3 * case.heads, tied=case.tied, dropout=case.dropout),
        case.B, mesh.sizes["dp"], mesh.sizes["pp"], mesh.sizes["tp"],
        case.parallel(mesh), case.accumulate,
        precision="fp32" if case.dtype == "float32" else "fp64",
        states=1 if case.optimizer == "sgd" else 2,
        scaled=case.scaler is not None,
        id_bytes=8,
        started=bool(case.start),
    )  # fmt: skip
    rank = Rank(setup, list(setup.places())[mesh.world.rank]).update()
    for route in [route for route in rank.routes if route[0] == TOTAL]:
        del rank.routes[route]  # a Trainer sums the loss over ranks; train_step does not
    return rank


def bytes_of_headers(rank: Rank) -> int:
    """Return the header bytes of the whole run: 9 numbers of 8 bytes per border down and distinct micro-batch size."""
    messages = [event for event in rank.events if isinstance(event, Message) and event.source == rank.number]
    down = [message for message in messages if message.key[0]]
    return 9 * 8 * len({(message.key[2], message.nbytes) for message in down})  # key[2]: the border


# Comparison -----------------------------------------------------------------------------------------------------------


def difference(a: Tensors, b: Tensors) -> float:
    """Return the largest max|a - b| / max(max|b|, 1e-3 x the largest |b| of all tensors).

    An elementwise ratio would be meaningless: some true gradients, such as the key bias's, are zero.
    """
    assert a.keys() == b.keys(), f"different tensors: {a.keys() ^ b.keys()}"
    floor = 1e-3 * max(np.abs(x).max(initial=0) for x in b.values())
    return max(float(np.abs(a[k] - b[k]).max(initial=0) / max(np.abs(b[k]).max(initial=0), floor)) for k in b)


def same_as_serial(world: Communicator, case: Case) -> Row:
    """Run the case on one process and on `world`. Collective; every rank returns the complete row."""
    on_threads = isinstance(world, ThreadCommunicator)
    if case.comm == "ring" and not isinstance(world, RingCommunicator):
        world = RingCommunicator(world)
    serial, run = serial_run(case.serial), train(world, case)
    _without_key_bias(case, run)
    mine = run.ledger.bytes + run.ledger.charged  # adding Counters drops tags with 0 bytes
    del mine[CHECKPOINT]  # traffic of this comparison
    headers = mine.pop(HEADER, 0)  # sent once, not in every step
    mesh = case.mesh(world)
    plan = planned(case, mesh)
    memory_theory = sum(plan.memory.live[kind] for kind in STATES)
    memory, witness = (None, None) if on_threads else held_bytes(world, case, memory_theory)
    bits = world.gather_objects({path: array.tobytes() for path, array in run.held.items()})
    row = Row(
        case.strategy + _suffix(case),
        " ".join(f"{axis}{n}" for axis, n in mesh.sizes.items() if n > 1), "threads" if on_threads else case.comm,
        case.optimizer, case.dtype, case.accumulate, case.clip, case.recompute,
        max_dloss=_relative(run.losses, serial.losses),
        max_dnorm=_relative(run.norms, serial.norms),
        max_dgradient=max(map(difference, run.gradients, serial.gradients)),
        max_dparameter=difference(run.parameters, serial.parameters),
        bytes=sum(sum(counter.values()) for counter in world.gather_objects(mine)) // STEPS,
        bytes_theory=sum(sum(counter.values()) for counter in world.gather_objects(plan.sent)),
        bytes_kind="charged" if any(world.gather_objects(run.ledger.charged.total() > 0)) else "counted",
        memory=memory, memory_theory=memory_theory, memory_witness=witness,
        bytes_per_rank_ok=mine == Counter({tag: STEPS * n for tag, n in plan.sent.items()})
        and headers == bytes_of_headers(plan),
        flops_per_rank_ok=run.ledger.flops == STEPS * plan.flops,
        replicas_equal=all(other[key] == one[key] for one in bits for other in bits for key in one if key in other),
    )  # fmt: skip
    row.ok = not any(world.gather_objects(wrong(row, case)))
    return row


def _suffix(case: Case) -> str:
    """How the model is divided, and whether there is a loss scale or ignored labels: "+zb-h1+sp", "+scale", "+pad"."""
    parts = [case.schedule if part == "pp" else part for part in case.layout.split("+") if part != "dp"]
    return "".join(
        f"+{part}"
        for part in parts + ["from"] * bool(case.start) + ["scale"] * bool(case.scaler) + ["pad"] * case.ignore
    )


def wrong(row: Row, case: Case) -> list[str]:
    """Return the names of the columns that fail. (NaN is never within a bound.)"""
    memory = (
        row.memory is None or row.memory_witness is None
        or as_in_theory(row.memory, row.memory_witness, row.memory_theory)
    )  # fmt: skip
    fine = {
        "loss": row.max_dloss <= case.bound,
        "norm": row.max_dnorm <= case.bound,
        "gradients": row.max_dgradient <= case.bound,
        "parameters": row.max_dparameter <= case.bound,
        "bytes": row.bytes == row.bytes_theory and row.bytes_per_rank_ok,
        "memory": memory,
        "flops": row.flops_per_rank_ok,
        "replicas": row.replicas_equal,
    }
    return [name for name, well in fine.items() if not well]


def _relative(found: list[float], true: list[float]) -> float:
    assert len(found) == len(true)
    return max(abs(a - b) / abs(b) for a, b in zip(found, true, strict=True))


def _without_key_bias(case: Case, run: Run) -> None:
    """Drop the key bias: its true gradient is zero, and Adam with a tiny epsilon amplifies its rounding errors."""
    if "1e-8" not in case.optimizer:
        return
    for tensors in (*run.gradients, run.parameters):
        for path in tensors:
            if path.endswith("qkv.bias"):
                tensors[path] = tensors[path][[0, 2]]
