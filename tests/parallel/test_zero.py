"""ZeRO matches data parallel bit for bit; the bytes it sends; the peak memory of every rank."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.data.batch import Batch, Where
from minitrain.errors import UserError
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Module
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Matrixwise
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.reducer import Reducer, require
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import PARAMETERS, Zero1, Zero2, Zero3, buckets_of
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step
from tests.equivalence.harness import (
    BUCKET_MB,
    SEED,
    STATES,
    Case,
    Run,
    same_as_serial,
    toy_batch,
    toy_gpt,
    train,
    wrong,
)
from tests.strategies import named
from tests.tiers import full

N = 3


# Bit for bit ----------------------------------------------------------------------------------------------------------

SAME_ORDER = [  # same order of additions as data parallel: at stages 2 and 3, one micro-batch or reduce_once
    ("zero1", 1), ("zero1", 3), ("zero1-overlap", 3), ("zero2", 1), ("zero2-overlap", 1), ("zero2-once", 3),
    ("zero3", 1), ("zero3-once", 3), ("zero3-prefetch", 1),
]  # fmt: skip


def bits(run: Run) -> list[Any]:
    """Return everything a run computed, as bits."""
    tensors = [*run.gradients, run.parameters]
    return [run.losses, run.norms, *({path: x.tobytes() for path, x in t.items()} for t in tensors)]


def bits_on_a_ring(world: Communicator, case: Case) -> list[Any]:
    return bits(train(RingCommunicator(world), case))


@cache
def on_threads(case: Case) -> list[list[Any]]:
    """Return the bits of N ranks; cached because several tests compare with them."""
    return threads.run(N, lambda world: bits_on_a_ring(world, case))


@cache
def under_mpi(world: Communicator, case: Case) -> list[Any]:
    """Return this rank's bits, cached likewise."""
    return bits_on_a_ring(world, case)


@pytest.mark.parametrize("replay", [full(0), 2])
@pytest.mark.parametrize("clip", [full(None), 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", full("adam")])  # adam in the first tier: under MPI, below
@pytest.mark.parametrize(("strategy", "micros"), SAME_ORDER)
def test_bit_for_bit_data_parallel(strategy: str, micros: int, optimizer: str, clip: float | None, replay: int) -> None:
    case = Case(strategy, "ring", optimizer, micros, clip, replay)
    ours = threads.run(N, lambda world: bits_on_a_ring(world, case))
    same = ours == on_threads(replace(case, strategy="dp-bucketed"))
    assert same


@pytest.mark.parametrize(("strategy", "micros"), SAME_ORDER)
@pytest.mark.ranks(3, full=(2, 4))
def test_bit_for_bit_under_mpi(world: Communicator, strategy: str, micros: int) -> None:
    case = Case(strategy, "ring", "adam", micros, 0.5, 1)
    same = bits_on_a_ring(world, case) == under_mpi(world, replace(case, strategy="dp-bucketed"))
    assert same


def test_recompute_changes_no_bit() -> None:
    cases = [Case("zero3", recompute=k) for k in (0, 1, 2, 4)]
    runs = [bits(run) for run in threads.run(2, lambda world: [train(world, case) for case in cases])[0]]
    assert all(run == runs[0] for run in runs)


# Bytes sent -----------------------------------------------------------------------------------------------------------


def nbytes(made: Model, frozen: bool = False) -> int:
    """Return the bytes of the trained parameters of a model in float64. frozen: also count the frozen ones."""
    return sum(math.prod(p.shape) for p in made.parameters() if p.requires_grad or frozen) * 8


class Obvious(Zero1):
    """ZeRO-1 as one might first write it: all-reduce, step on the own shard, all-gather."""

    def reduce(self, bucket: Any, flat: Array, group: Communicator) -> None:
        group.all_reduce(flat, ("dp", "gradients"))


def test_the_obvious_zero1_sends_half_as_much_again() -> None:
    """In units of (N-1) M over all ranks, not counting 8 bytes per bucket for the norm: 3, and ours 2."""

    def units(world: Communicator, kind: type[Reducer]) -> float:
        case = Case("zero1", "ring", hooks={"reducers": {**REDUCERS, "zero1": kind}})
        run = train(RingCommunicator(world), case)
        mine = sum(n for tag, n in run.ledger.bytes.items() if tag[1] in ("gradients", "parameters"))
        return sum(world.gather_objects(mine)) / (3 * (world.size - 1) * nbytes(toy_gpt()))

    assert threads.run(N, lambda world: units(world, Obvious))[0] == 3
    assert threads.run(N, lambda world: units(world, Zero1))[0] == 2


@pytest.mark.parametrize(("tied", "extra"), [(True, 2), (False, 0)])
def test_the_tied_weight_is_gathered_for_both_its_users(tied: bool, extra: int) -> None:
    """With k micro-batches: 3k units in total, plus 2k times the size of the tied weight."""
    k = 2
    run = threads.run(N, lambda world: train(RingCommunicator(world), Case("zero3", "ring", accumulate=k, tied=tied)))
    every, trained = nbytes(toy_gpt(tied=tied), frozen=True), nbytes(toy_gpt(tied=tied))
    sent: Counter = sum((r.ledger.bytes for r in run), Counter())
    table = 11 * 9 * 8
    assert sent[PARAMETERS] == 3 * (N - 1) * k * (2 * every + extra * table)
    assert sent["dp", "gradients"] == 3 * (N - 1) * k * trained


@pytest.mark.parametrize(
    ("strategy", "purposes"),
    [
        *((f"dp-{how}", {"gradients"}) for how in ("naive", "bucketed", "overlap")),
        *((f"zero{stage}", {"gradients", "parameters", "norm"}) for stage in (1, 2, 3)),
    ],
)
def test_what_is_sent_is_told_under_its_name(strategy: str, purposes: set[str]) -> None:
    """The tags are written out here, since the formulas of the matrix use the library's names."""
    for run in threads.run(2, lambda world: train(RingCommunicator(world), Case(strategy, "ring"))):
        assert set(run.ledger.bytes) - {("dp", "checkpoint")} == {("dp", purpose) for purpose in purposes}
        assert not +run.ledger.charged


# Memory ---------------------------------------------------------------------------------------------------------------

B, T, V, D, LAYERS = 8, 8, 64, 48, 8


def model() -> Model:
    made = gpt(GPTConfig(V, T, LAYERS, heads=4, width=D))
    block: Any = made.units[3]
    block.mlp.up.weight.requires_grad = False  # frozen
    return made


def batch(number: int) -> Batch:
    ids = np.random.default_rng(number).integers(0, V, (B, T + 1))
    return Batch(ids[:, :-1], ids[:, 1:], Where(1, number, B, T, slice(0, B), slice(0, T)))


def states(world: Communicator, how: str, reducers: Any = REDUCERS, steps: int = 2) -> tuple[Model, Ledger]:
    """Train for `steps` steps and return the model and the ledger with its history."""
    ledger = Ledger(history=True)
    with ledger.open():
        made = model()
        reducer = parallelize(made, Mesh(world, dp=world.size), named(how, bucket_mb=0.05), reducers=reducers)
        reducer.init(1)
        optimizer = Adam(reducer)
        for number in range(steps):
            train_step(made, batch(number).part(world.rank, world.size), reducer, optimizer, 1e-3)
        reducer.close()
    return made, ledger


def fullest(ledger: Ledger, *kinds: str) -> int:
    assert ledger.history is not None
    return max(sum(live.get(kind, 0) for kind in kinds) for live in ledger.history)


@pytest.mark.parametrize("ranks", [full(2), 3, full(4)])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bytes_a_parameter(stage: int, ranks: int, reducers: Any = REDUCERS) -> None:
    """Each rank's peak: bytes per parameter as in the table, plus the buffers in use or in flight."""
    how = f"zero{stage}" if stage else "bucketed"
    parameters = model().parameters()
    P = sum(math.prod(p.shape) for p in parameters if p.requires_grad)
    frozen = sum(math.prod(p.shape) for p in parameters) - P
    a = {0: 16.0, 1: 8 + 8 / ranks, 2: 4 + 12 / ranks, 3: 16 / ranks}[stage]
    theory = a * P + (4 / ranks if stage == 3 else 4) * frozen
    unit = max(sum(math.prod(p.shape) for p in u.parameters()) for u in model().units) * 4
    tied = V * D * 4
    at_work = {0: 0, 1: 0, 2: unit + tied, 3: 2 * (unit + tied)}[stage]  # gradients; at stage 3 also parameters
    for rank, (_, ledger) in enumerate(threads.run(ranks, lambda world: states(world, how, reducers))):
        most = fullest(ledger, *STATES)
        assert 0.99 * theory <= most <= 1.01 * theory + at_work, f"rank {rank} holds {most}, theory {theory:.0f}"


def test_the_saw_tooth_of_stage_3(reducers: Any = REDUCERS) -> None:
    """Stage 3's parameter memory over time: up by one unit before each forward and backward, down again after it."""
    for _, ledger in threads.run(N, lambda world: states(world, "zero3", reducers, steps=1)):
        assert ledger.history is not None
        start = next(i for i, live in enumerate(ledger.history) if live.get("activations"))
        curve = [live["parameters"] for live in ledger.history[start:]]
        low, units = min(curve), model().units
        teeth = sum(a > low >= b for a, b in pairwise(curve))
        assert teeth == 2 * len(units), "each unit is gathered twice, and nothing is left between two of them"
        unit = max(sum(math.prod(p.shape) for p in u.parameters()) for u in units) * 4
        assert max(curve) <= low + unit


@pytest.mark.parametrize("stage", [full(0), full(1), full(2), 3])
@pytest.mark.ranks(4)
def test_the_matrix_sees_a_rank_that_holds_too_much(world: Communicator, stage: int) -> None:
    """tracemalloc and the ledger agree with the formula on every rank; the toy has an empty shard."""
    case = Case(f"zero{stage}" if stage else "dp-bucketed", "ring", "adam", B=2)
    row = same_as_serial(world, case)
    assert wrong(row, case) == []
    assert row.memory == row.memory_theory


# Prefetch -------------------------------------------------------------------------------------------------------------


class Watched(Zero3):
    """Records, as each segment begins: its index, whether its gathers were prefetched, which segments are in flight."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.seen: list[tuple[int, bool, list[int]]] = []
        self.fetched: list[bool] = []
        super().__init__(*arguments, **options)

    def fetch(self, bucket: Bucket) -> Array:
        self.fetched.append(bucket in self.coming)
        return super().fetch(bucket)

    def send_for(self, units: Sequence[Module]) -> None:
        super().send_for(units)
        whole = [b for b in self.buckets if b.data is not None or b in self.coming]
        number = {b: i for i, segment in enumerate(self.segments) for b in buckets_of(segment)}
        here = next(i for i, segment in enumerate(self.segments) if self.users[buckets_of(segment)[0]])
        assert {number[b] for b in whole} <= {here, *(number[b] for b in self.coming)}, "more is held than is used"
        self.seen.append((here, all(self.fetched), sorted({number[b] for b in self.coming})))
        self.fetched.clear()


@pytest.mark.parametrize("micros", [1, 2])
def test_the_next_segment_is_prefetched_and_no_other(micros: int, kind: type[Watched] = Watched) -> None:
    """While a segment runs, only its neighbor is gathered: the next in forward, the previous in backward, if any."""

    def program(world: Communicator) -> list[tuple[int, bool, list[int]]]:
        made = gpt(GPTConfig(V, T, layers=3, heads=4, width=D, tied=False))
        kinds = {**REDUCERS, "zero3": kind}
        reducer = parallelize(made, Mesh(world, dp=2), Strategy(zero=3, bucket_mb=0.05, prefetch=True), reducers=kinds)
        reducer.init(1)
        assert isinstance(reducer, kind)
        for number in range(2):
            train_step(made, batch(number).part(world.rank, 2), reducer, SGD(reducer), 0.1, micros)
        assert not reducer.coming
        reducer.close()
        return reducer.seen

    forward = [(0, False, [1]), (1, True, [2]), (2, True, [3]), (3, True, [4]), (4, True, [])]
    backward = [(4, False, [3]), (3, True, [2]), (2, True, [1]), (1, True, [0]), (0, True, [])]
    for seen in threads.run(2, program):
        assert seen == (forward + backward) * micros * 2


# What is refused ------------------------------------------------------------------------------------------------------


class Orthogonal(Matrixwise):
    """Needs whole matrices; a shard is not enough."""


class OwnLARS(SGD):
    """Scales by the norm of the whole parameter, but would be given blocks of a shard."""

    elementwise = False


@pytest.mark.parametrize("how", ["zero1", "zero2", "zero3"])
def test_an_optimizer_that_needs_whole_parameters(how: str) -> None:
    def program(world: Communicator) -> None:
        reducer = parallelize(toy_gpt(), Mesh(world, dp=2), named(how))
        with pytest.raises(UserError, match=r"Orthogonal needs whole parameters, .*owners"):
            Orthogonal(reducer)
        Orthogonal(parallelize(toy_gpt(), Mesh(world, dp=2), named(how, owners="parameters")))

    threads.run(2, program)
    alone = parallelize(toy_gpt(), Mesh(threads.world_of_one()))
    Orthogonal(alone)
    with pytest.raises(UserError, match=r"OwnLARS sets elementwise=False"):
        OwnLARS(alone)


def test_a_dropped_parameter_cannot_be_read() -> None:
    made = toy_gpt()
    parallelize(made, Mesh(threads.world_of_one()), Strategy(zero=3)).init(1)
    with pytest.raises(RuntimeError, match="no values here"):
        _ = made.parameters()[0].data


@pytest.mark.parametrize("nan_fill", [True, False])
def test_poison_is_what_a_late_reader_finds(nan_fill: bool) -> None:
    """The harness enables NaN fill for every ZeRO-3 run, to expose code that reads values after they were dropped."""
    made = toy_gpt()
    reducer: Any = parallelize(made, Mesh(threads.world_of_one()), Strategy(zero=3))
    reducer.init(1)
    reducer.nan_fill = nan_fill
    late: list[Array] = []
    drop = reducer.drop

    def kept(bucket: Bucket) -> None:
        late.append(require(bucket.data))
        drop(bucket)

    reducer.drop = kept
    train_step(made, toy_batch(0), reducer, SGD(reducer), 0.1)
    assert late and all(np.isnan(values).all() == nan_fill for values in late)


@pytest.mark.parametrize("kind", [Zero1, Zero2, Zero3])
def test_nothing_to_train(kind: type[Zero1]) -> None:
    made = toy_gpt()
    for p in made.parameters():
        p.requires_grad = False
    reducer = parallelize(made, Mesh(threads.world_of_one()), named(kind.__name__.lower()))
    reducer.init(1)
    reducer.start_step()
    reducer.end_backward()
    reducer.synchronize()
    assert reducer.owned() == [] and reducer.norm() == 0


def test_a_prefetch_cuts_buckets_as_their_owners_do() -> None:
    """With whole parameters per owner, the shards are uneven: a prefetch must gather the same ones."""

    def trained(world: Communicator, prefetch: bool) -> list[bytes]:
        model = toy_gpt()
        strategy = Strategy(zero=3, prefetch=prefetch, owners="parameters", bucket_mb=BUCKET_MB)
        reducer = parallelize(model, Mesh(world, dp=N), strategy)
        reducer.init(SEED)
        optimizer = SGD(reducer)
        for number in range(2):
            train_step(model, toy_batch(number).part(world.rank, N), reducer, optimizer, 0.1)
        return [array.tobytes() for array in gather(model, world, "data", reducer).values()]

    both = threads.run(N, lambda world: [trained(RingCommunicator(world), prefetch) for prefetch in (False, True)])
    assert all(without == ahead for without, ahead in both)
