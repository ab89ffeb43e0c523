"""Train on the same global batches on one process and on a mesh: is it the same training run?

`same_as_serial(world, case)` compares the loss, every gradient before the step, the global norm and every parameter
after the steps with the run on one process. It compares the bytes sent under each tag with the formula, and the memory
held with the formula and with tracemalloc, which is independent of the ledger.

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
from minitrain.autograd import no_grad
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
from minitrain.precision import Scaler
from minitrain.sharding import shard_of
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step
from minitrain.train.weights import look, start_from
from tests.ranks import GLANCE
from tests.train import gpt2_files

SEED, B, T, V, STEPS, BUCKET_MB = 3, 7, 5, 11, 3, 0.003
STATES = ("parameters", "gradients", "optimizer")  # the ledger's kinds that persist between steps
# The tags that the formulas expect, written out: the library's own names are under test.
GRADIENTS, PARAMETERS, NORM, OVERFLOW = ("dp", "gradients"), ("dp", "parameters"), ("dp", "norm"), ("mesh", "overflow")
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
            strategy = replace(strategy, schedule=self.schedule, chunks=2 if self.schedule == "interleaved" else 1)
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
    work: float  # FLOPs of all ranks / FLOPs of the serial run (plus one more forward with recompute)
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
    buckets: "list[Packed]" = field(default_factory=list)


@dataclass
class Packed:
    """What the formulas need of a bucket: its size, each parameter's size, whether it is trained, how many segments
    use it, how many ranks sum its gradients, and this rank's index among them."""

    size: int
    lengths: list[int]
    trained: bool
    users: int
    ranks: int
    rank: int

    @property
    def mine(self) -> int:
        """Number of elements in this rank's shard."""
        return self.size - scattered(self.size, self.ranks, self.rank)

    @staticmethod
    def all(model: Model, reducer: Reducer) -> "list[Packed]":
        """Describe every bucket of a reducer."""
        return [
            Packed(
                b.size, [math.prod(p.shape) for p in b.parameters], b.trained,
                sum(b.parameters[0] in unit.parameters() for unit in model.units), b.group.size, b.group.rank,
            )
            for b in reducer.buckets
        ]  # fmt: skip


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
        run.buckets = Packed.all(training.model, training.reducer)
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


@cache
def forward_flops(case: Case) -> int:
    """Return the forward FLOPs of a serial case: the cost of one replay."""
    model, ledger = case.toy(), Ledger()
    model.init(SEED)
    with ledger.open(), no_grad():
        for number in range(STEPS):
            for micro in toy_batch(number, case.B, case.ignore).split(case.accumulate):
                model(micro)
    return ledger.flops


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


def scattered(size: int, ranks: int, rank: int) -> int:
    """Return the number of elements a rank sends in a ring reduce-scatter: all shards but its own."""
    return size - _length(shard_of(size, ranks, rank))


def collected(size: int, ranks: int, rank: int) -> int:
    """Return the number of elements a rank sends in a ring all-gather: all shards but the next rank's."""
    return size - _length(shard_of(size, ranks, (rank + 1) % ranks))


def sent(world: Communicator, case: Case, buckets: list[Packed]) -> Counter[tuple[str, str]]:
    """Return the bytes this rank sends in a step, by tag."""
    mesh, item = case.mesh(world), np.dtype(case.dtype).itemsize
    total = _of_gradients(case, buckets, item)
    samples = _length(shard_of(case.B, mesh.sizes["dp"], mesh.coordinates["dp"]))
    for i in range(case.accumulate):
        micro = _length(shard_of(samples, case.accumulate, i))
        if mesh.sizes["tp"] > 1:
            total += _of_the_model(case, micro, mesh, item)
        if mesh.sizes["pp"] > 1:
            total += _of_the_borders(case, micro, mesh, item)
    total["tp", "norm"] += 8 * (mesh.sizes["tp"] * mesh.sizes["pp"] - 1)
    if case.scaler:  # a 4-byte flag per step, agreed on by all ranks of any mesh
        total[OVERFLOW] += 4 * (scattered(1, world.size, world.rank) + collected(1, world.size, world.rank))
    return +total


def _stages(case: Case, mesh: Mesh) -> list[range]:
    """Return the unit numbers of this rank's stages: the embedding is 0, then the blocks, then the head."""
    p, v, n = mesh.sizes["pp"], 2 if case.schedule == "interleaved" and case.pp > 1 else 1, case.layers + 2
    shards = [shard_of(n, p * v, c * p + mesh.coordinates["pp"]) for c in range(v)]
    return [range(cut.start, cut.stop) for cut in shards]


def _of_the_borders(case: Case, samples: int, mesh: Mesh, item: int) -> Counter[tuple[str, str]]:
    """B T D elements down each border and as many gradients up; T is the rank's share under sequence parallel."""
    time_ = _length(shard_of(T, mesh.sizes["tp"], mesh.coordinates["tp"])) if "sp" in case.layout else T
    size = samples * time_ * 3 * case.heads * item
    stages = _stages(case, mesh)
    down, up = (sum(edge not in stage for stage in stages) for edge in (case.layers + 1, 0))
    return Counter({("pp", "activations"): down * size, ("pp", "gradients"): up * size})


def bytes_of_headers(case: Case, mesh: Mesh) -> int:
    """Return the header bytes of the whole run: 9 numbers of 8 bytes per border down and distinct micro-batch size."""
    samples = _length(shard_of(case.B, mesh.sizes["dp"], mesh.coordinates["dp"]))
    lengths = {_length(shard_of(samples, case.accumulate, i)) for i in range(case.accumulate)}
    down = sum(case.layers + 1 not in stage for stage in _stages(case, mesh))
    return down * len(lengths) * 9 * 8 if mesh.sizes["pp"] > 1 else 0


def _of_gradients(case: Case, buckets: list[Packed], item: int) -> Counter[tuple[str, str]]:
    """The table of the ZeRO stages, summed over buckets."""
    k, trained = case.accumulate, [b for b in buckets if b.trained]
    scatter, gather = (sum(f(b.size, b.ranks, b.rank) for b in trained) * item for f in (scattered, collected))
    if not case.how.startswith("zero"):
        lengths = [(n, b) for b in trained for n in (b.lengths if case.how == "naive" else [b.size])]
        every = sum(scattered(n, b.ranks, b.rank) + collected(n, b.ranks, b.rank) for n, b in lengths)
        return Counter({GRADIENTS: every * item})
    each = 1 if case.how == "zero1" or "once" in case.strategy else k
    if case.how == "zero3":  # each segment that uses a bucket gathers it before its forward and its backward
        gather = 2 * k * sum(b.users * collected(b.size, b.ranks, b.rank) for b in buckets) * item
    norm = 8 * sum(b.ranks - 1 for b in trained)
    return Counter({GRADIENTS: each * scatter, PARAMETERS: gather, NORM: norm})


def _of_the_model(case: Case, samples: int, mesh: Mesh, item: int) -> Counter[tuple[str, str]]:
    """Return what a micro-batch of `samples` sends along tp in forward (again in a replay) and backward, as in the
    docstrings of tensor_parallel.py and sequence_parallel.py."""
    t, r = mesh.sizes["tp"], mesh.coordinates["tp"]
    units = [unit for stage in _stages(case, mesh) for unit in stage]
    blocks, first, last = sum(0 < u <= case.layers for u in units), 0 in units, case.layers + 1 in units
    forwards, D = 2 if case.recompute else 1, 3 * case.heads
    rows, every = samples * T, samples * T * D
    all_reduce = lambda n: scattered(n, t, r) + collected(n, t, r)
    loss = forwards * 3 * all_reduce(rows)
    if "tp" in case.layout:
        one = all_reduce(every)
        block, embedding, head = blocks * 2 * (forwards + 1) * one, forwards * one, one
    else:
        scatter, gather = (f(T, t, r) * samples * D for f in (scattered, collected))
        kept_shares = gather  # only shards are kept, so backward gathers again
        block = blocks * 2 * ((forwards + 1) * (scatter + gather) + kept_shares)
        embedding, head = forwards * scatter + gather, forwards * gather + scatter
    parts = {"block": block, "embedding": first * embedding, "head": last * head, "loss": last * loss}
    return Counter({("tp", name): n * item for name, n in parts.items()})


def held(case: Case, buckets: list[Packed]) -> int:
    """Return the bytes of parameters, gradients and optimizer state on this rank after a step."""
    stage = int(case.how[-1]) if case.how.startswith("zero") else 0
    states = 1 if case.optimizer == "sgd" else 2
    total = 0
    for b in buckets:
        parameters, reducer, state = (b.mine if stage >= least else b.size for least in (3, 2, 1))
        total += parameters + (reducer + states * state if b.trained else 0)
    return total * np.dtype(case.dtype).itemsize


def _length(cut: slice) -> int:
    return cut.stop - cut.start


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
    theory, memory_theory = sent(world, case, run.buckets), held(case, run.buckets)
    memory, witness = (None, None) if on_threads else held_bytes(world, case, memory_theory)
    bits = world.gather_objects({path: array.tobytes() for path, array in run.held.items()})
    replayed = forward_flops(case.serial) if case.recompute else 0
    sizes = case.mesh(world).sizes.items()
    row = Row(
        case.strategy + _suffix(case),
        " ".join(f"{axis}{n}" for axis, n in sizes if n > 1), "threads" if on_threads else case.comm,
        case.optimizer, case.dtype, case.accumulate, case.clip, case.recompute,
        max_dloss=_relative(run.losses, serial.losses),
        max_dnorm=_relative(run.norms, serial.norms),
        max_dgradient=max(map(difference, run.gradients, serial.gradients)),
        max_dparameter=difference(run.parameters, serial.parameters),
        bytes=sum(sum(counter.values()) for counter in world.gather_objects(mine)) // STEPS,
        bytes_theory=sum(sum(counter.values()) for counter in world.gather_objects(theory)),
        bytes_kind="charged" if any(world.gather_objects(run.ledger.charged.total() > 0)) else "counted",
        memory=memory, memory_theory=memory_theory, memory_witness=witness,
        bytes_per_rank_ok=mine == Counter({tag: STEPS * n for tag, n in theory.items()})
        and headers == bytes_of_headers(case, case.mesh(world)),
        work=sum(world.gather_objects(run.ledger.flops)) / (serial.ledger.flops + replayed),
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
        # Ranks along tp all compute what they all hold: norms, biases and the sums in the loss
        "work": row.work == 1 if case.layout in ("dp", "pp") else 1 <= row.work < 1.2,
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
