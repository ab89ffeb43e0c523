"""Half precision on many ranks: it learns as well as float32, communication is in half precision, memory matches the
table, and a layer that overflows on one rank returns to float32 on all."""

import time
import tracemalloc
from collections import defaultdict
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.models import Dense, DenseHead, FeedForward, GPTConfig, Model, gpt
from minitrain.nn import Module
from minitrain.observe.ledger import Ledger
from minitrain.optim import Adam
from minitrain.parallel.strategy import Strategy
from minitrain.precision import CASTS, DynamicPolicy, DynamicScaler, Precision, StaticPolicy, StaticScaler
from minitrain.sharding import Shards, shard_of
from minitrain.tensor import Tensor
from minitrain.train.trainer import Trainer
from tests.ranks import GLANCE
from tests.strategies import named
from tests.tiers import full as later

# It learns as well as float32 -----------------------------------------------------------------------------------------

B, T, V, LR, LAST = 7, 11, 13, 3e-3, 10
STEPS = 150


def text(number: int) -> Batch:
    """Return ids in which the next one follows a fixed rule seven times out of eight."""
    draw = np.random.default_rng(number)
    ids = np.empty((B, T + 1), np.int64)
    ids[:, 0] = draw.integers(0, V, B)
    for t in range(T):
        ids[:, t + 1] = np.where(draw.random(B) < 7 / 8, (5 * ids[:, t] + 3) % V, draw.integers(0, V, B))
    return Batch(ids[:, :-1], ids[:, 1:], Where(1, number, B, T, slice(0, B), slice(0, T)))


def small_gpt() -> Model:
    return gpt(GPTConfig(V, T, layers=2, heads=5, width=25, std=0.05))


def losses(world: Communicator, steps: int, precision: Precision | None, mesh: Mesh | None, **options: Any) -> float:
    """Return the mean of the last ten losses."""
    trainer = Trainer(small_gpt(), world, schedule=LR, mesh=mesh, precision=precision, **options)
    updates = [trainer.step(text(number)) for number in range(steps)]
    trainer.close()
    assert trainer.updates >= steps - 3, "hardly any batch is to be left out"
    return float(np.mean([update.loss for update in updates[-LAST:]]))


@cache
def full(steps: int) -> float:
    """Return the loss that float32 reaches on one process."""
    return losses(world_of_one(), steps, None, None)


class Watched(RingCommunicator):
    """Records the dtypes it communicates, by tag."""

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.seen: dict[Tag, set[str]] = defaultdict(set)

    def subgroup(self, ranks: Any) -> "Watched":
        group = Watched(self.inner.subgroup(ranks))
        group.seen = self.seen
        return group

    def all_reduce(self, x: Array, tag: Tag, op: str = "sum", shards: Shards | None = None) -> None:
        super().all_reduce(x, tag, op, shards)
        self.seen[tag].add(x.dtype.name)

    def reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None = None) -> Array:
        self.seen[tag].add(x.dtype.name)
        return super().reduce_scatter(x, tag, shards)

    def all_gather(self, x: Array, tag: Tag, shards: Shards | None = None) -> None:
        self.seen[tag].add(x.dtype.name)
        super().all_gather(x, tag, shards)

    def send(self, x: Array, to: int, tag: Tag, number: int = 0) -> Any:
        self.seen[tag].add(x.dtype.name)
        return super().send(x, to, tag, number)


HALF16, HALFB = "mixed_float16", "mixed_bfloat16"
F16, B16, F32 = {"float16"}, {"bfloat16"}, {"float32"}
BLOCK: Tag = ("tp", "block")
DOWN, UP = ("pp", "activations"), ("pp", "gradients")
G, P = ("dp", "gradients"), ("dp", "parameters")
# policy, half weights, steps, strategy, axis -> the expected dtypes of some tags
LEARNING: list[tuple[str, bool, int, Strategy, str, dict[Tag, set[str]]]] = [
    (HALF16, False, STEPS, Strategy(), "dp", {G: F32}),
    (HALF16, False, STEPS, Strategy(zero=3), "dp", {G: F32, P: F32}),
    (HALF16, True, STEPS, Strategy(zero=3), "dp", {G: F16, P: F16}),
    (HALFB, True, STEPS, Strategy(zero=1), "dp", {G: B16, P: B16}),
    (HALF16, False, 60, Strategy(), "tp", {BLOCK: F16, ("tp", "loss"): F32}),
    (HALF16, False, 60, Strategy(sp=True), "tp", {BLOCK: F16, ("tp", "head"): F16}),
    (HALF16, True, 60, Strategy(), "tp", {BLOCK: F16, ("tp", "embedding"): F16}),
    (HALF16, False, 60, Strategy(), "pp", {DOWN: F16, UP: F16}),
    (HALFB, True, 60, Strategy(), "pp", {DOWN: B16, UP: B16}),
]


@pytest.mark.parametrize(
    ("policy", "half_weights", "steps", "strategy", "axis", "dtypes"),
    [row if row[2] < STEPS and not row[1] else later(*row) for row in LEARNING],
)
@pytest.mark.ranks(2)
def test_it_learns_as_float32_does(
    world: Communicator,
    policy: str,
    half_weights: bool,
    steps: int,
    strategy: Strategy,
    axis: str,
    dtypes: dict[Tag, set[str]],
) -> None:
    """The loss is within 1% of float32, and ranks communicate in half precision."""
    watched = Watched(world)
    loss = losses(
        watched, steps, StaticPolicy(policy), Mesh(watched, **{axis: 2}), strategy=replace(strategy, bucket_mb=0.02),
        half_weights=half_weights, accumulate=2 if axis == "pp" else 1,
    )  # fmt: skip
    assert full(STEPS) < 0.5 * full(10), "it has learned"
    assert abs(loss - full(steps)) < 0.01 * full(steps)
    seen = world.gather_objects({tag: watched.seen[tag] for tag in dtypes})
    assert {tag: set().union(*(one[tag] for one in seen)) for tag in dtypes} == dtypes


LAYERS = [
    {"head": "float32"},
    {"blocks.0": "float32"},
    {"blocks.1": "float32"},
    {"*.norm?": "float32", "embed": "bfloat16"},
]


@pytest.mark.parametrize("layers", [later(layers) for layers in LAYERS[:-1]] + LAYERS[-1:])
@pytest.mark.parametrize("how", [{"schedule": "1f1b"}, {"schedule": "interleaved", "chunks": 2}])
def test_borders_of_stages_between_unlike_layers(how: dict[str, Any], layers: dict[str, str]) -> None:
    """Neighboring layers have different dtypes at every stage border."""

    def program(world: Communicator) -> float:
        mesh, strategy = Mesh(world, pp=2), Strategy(bucket_mb=0.02, **how)
        return losses(world, 30, StaticPolicy(HALF16, layers), mesh, strategy=strategy, accumulate=4)

    assert threads.run(2, program) == pytest.approx([full(30)] * 2, rel=0.01)


def test_a_precision_that_leaves_open_what_passes_between_stages() -> None:
    """Without a "layer" row, layers keep their input's dtype, and the sender tells the receiver what it is."""
    casts = {operation: cast for operation, cast in CASTS.items() if operation != "layer"}
    alone = losses(world_of_one(), 3, DynamicPolicy(casts=casts), Mesh(world_of_one()))
    found = threads.run(2, lambda world: losses(world, 3, DynamicPolicy(casts=casts), Mesh(world, pp=2)))
    assert found == pytest.approx([alone] * 2, rel=1e-5)


@pytest.mark.ranks(2)
def test_gradients_that_underflow_are_seen(world: Communicator) -> None:
    """The same measure detects underflow: with a loss scale far too small, most activation gradients are 0."""
    scaler = StaticScaler(2.0**-16)
    assert losses(world, 60, StaticPolicy(HALF16), Mesh(world, dp=2), scaler=scaler) > 1.01 * full(60)


# Memory per rank ------------------------------------------------------------------------------------------------------

STAGES = ("bucketed", "zero1", "zero2", "zero3")


def held(world: Communicator, how: str, half: str, k: int, half_weights: bool) -> tuple[Trainer, int]:
    """Return (the trainer after one update, bytes of parameters, gradients and optimizer state on this rank)."""
    with Ledger().open() as ledger:
        trainer = Trainer(
            small_gpt(), world, precision=StaticPolicy(half), half_weights=half_weights, accumulate=k,
            strategy=named(how, bucket_mb=0.02),
        )  # fmt: skip
        trainer.step(text(0))
        assert trainer.updates == 1
        found = ledger.live["parameters"] + ledger.live["gradients"] + ledger.live["optimizer"]
        trainer.close()
    return trainer, found


def table(how: str, k: int, half_weights: bool, whole: int, shard_of: int) -> int:
    """Return bytes for `whole` parameters, `share` of them owned: weights, gradients, Adam's two states and a master.

    At stages 2 and 3, gradients accumulated over several micro-batches are float32.
    """
    if not half_weights:
        weights, reducer, optimizer = 4, 4, 8
    else:
        weights, reducer, optimizer = 2, 4 if k > 1 and how in ("zero2", "zero3") else 2, 12
    stage = STAGES.index(how)
    places = [shard_of if stage >= least else whole for least in (3, 2, 1)]
    return weights * places[0] + reducer * places[1] + optimizer * places[2]


# from the docstring of minitrain.precision: bytes per parameter over all N ranks, a N + b for a + b / N per rank
FOR_ALL = {
    ("bucketed", 1): (16, 0), ("zero1", 1): (4, 12), ("zero2", 1): (2, 14), ("zero3", 1): (0, 16),
    ("bucketed", 2): (16, 0), ("zero1", 2): (4, 12), ("zero2", 2): (2, 16), ("zero3", 2): (0, 18),
}  # fmt: skip
AUTOCAST = {"bucketed": (16, 0), "zero1": (8, 8), "zero2": (4, 12), "zero3": (0, 16)}


def exact(trainer: Trainer, found: int, how: str, k: int, half_weights: bool) -> None:
    world, sizes = trainer.world, [bucket.size for bucket in trainer.reducer.buckets]
    N, P = world.size, sum(sizes)
    assert any(n % N for n in sizes), "shares are to be uneven"
    owned = [shard_of(n, N, world.rank) for n in sizes]
    mine = sum(table(how, k, half_weights, n, cut.stop - cut.start) for n, cut in zip(sizes, owned, strict=True))
    assert found == mine, f"rank {world.rank} holds {found} bytes, not {mine}"
    a, b = FOR_ALL[how, k] if half_weights else AUTOCAST[how]
    assert sum(world.gather_objects(found)) == (a * N + b) * P


@pytest.mark.parametrize("half_weights", [True, False])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("how", STAGES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_bytes_a_parameter(ranks: int, how: str, k: int, half_weights: bool) -> None:
    threads.run(ranks, lambda world: exact(*held(world, how, HALF16, k, half_weights), how, k, half_weights))


@pytest.mark.parametrize("how", [*map(later, STAGES[:-1]), STAGES[-1]])
@pytest.mark.ranks(3)
def test_bytes_a_parameter_in_bfloat16(world: Communicator, how: str) -> None:
    """Under MPI. tracemalloc, an independent measurement, sees the same."""
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    traced = lambda: sum(t.size for t in tracemalloc.take_snapshot().filter_traces([arrays]).traces)
    tracemalloc.start()
    try:
        before = traced()
        trainer, found = held(world, how, HALFB, 2, True)
        after = [traced() for _ in range(3) if time.sleep(GLANCE) is None]  # type: ignore[func-returns-value]
    finally:
        tracemalloc.stop()
    exact(trainer, found, how, 2, True)
    assert abs(min(after) - before - found) < 0.03 * found


# Real overflows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "axes"),
    [later("bucketed", {"dp": 3}), later("zero1", {"dp": 3}), ("zero3", {"dp": 3}), ("bucketed", {"tp": 2})],
)
def test_a_scale_that_is_too_large_comes_down(how: str, axes: dict[str, int]) -> None:
    """The scale comes down without changing anything else, not even the masters: the update equals, bit for bit, that
    of a run that started with the final scale."""

    def two_updates(world: Communicator, scale: float) -> tuple[int, float, list[bytes]]:
        """Return (skips before the first update, the scale at that update, all arrays that two updates change)."""
        trainer = Trainer(
            small_gpt(), RingCommunicator(world), mesh=Mesh(world, **axes), precision=StaticPolicy(HALF16),
            half_weights=True, scaler=DynamicScaler(scale, patience=60), strategy=named(how, bucket_mb=0.02),
        )  # fmt: skip
        while trainer.step(text(0)).skipped:
            assert trainer.updates == 0
        skips, first = trainer.scaler.skips, trainer.scaler.value
        while trainer.step(text(1)).skipped:
            assert trainer.updates == 1
        assert trainer.updates == 2
        masters = [master for master in trainer.optimizer.masters if master is not None]
        assert masters and all(master.dtype == np.float32 for master in masters)
        arrays = [*masters, *(array for state in trainer.optimizer.state for array in state)]
        arrays += [owned.data for owned in trainer.reducer.owned()]
        return skips, first, [array.tobytes() for array in arrays]

    def program(world: Communicator) -> tuple[int, float]:
        skips, scale, found = two_updates(world, 2.0**40)
        assert two_updates(world, scale) == (0, scale, found)
        return skips, scale

    ranks = next(iter(axes.values()))
    ((skips, scale),) = set(threads.run(ranks, program))
    assert scale == 2.0 ** (40 - skips) and 1 < scale < 2.0**36


# A layer that overflows on one rank -----------------------------------------------------------------------------------

D, ROWS = 5, 7  # width; number of samples, of which the last has a large entry


class Bulge(Module):
    """x + W_down gelu(W_up x), with W_up so large that the hidden activations overflow in float16 when x is large."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mlp = FeedForward(f"{path}.mlp", D, std=3e3, out_std=1e-5, dtype=np.dtype(np.float32))
        for p in self.parameters():
            p.requires_grad = False  # keep the weights fixed

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        x = self.cast_input("layer", x)
        return x + self.cast_input("layer", self.mlp(x))


def bulging() -> Model:
    dense = [Dense(f"dense.{i}", D, D, np.dtype(np.float32)) for i in range(2)]
    return Model([dense[0], Bulge("bulge"), dense[1], DenseHead("head", D, 3, np.dtype(np.float32))])


def rows(number: int, large: float) -> Batch:
    """Return samples labeled by the largest of their first three entries. The last sample has the entry `large`."""
    draw = np.random.default_rng(number)
    x = draw.normal(size=(ROWS, D)).astype(np.float32)
    x[-1] = [large, 0, 0, 0, 0]
    labels = np.argmax(x[:, :3], axis=1)
    return Batch(x, labels, Where(1, number, ROWS, 1, slice(0, ROWS), slice(0, 1)))


PATIENCE, REST, LARGE = 2, 8, 40.0


class Remembers(DynamicPolicy):
    """Records the layers that overflowed in this rank's own forward."""

    def __init__(self) -> None:
        super().__init__(patience=PATIENCE, rest=REST)
        self.overflowed: set[str] = set()

    def watch(self, path: str, x: Tensor | None, y: Tensor) -> None:
        super().watch(path, x, y)
        self.overflowed |= self.seen


def learn(
    world: Communicator,
    numbers: list[int],
    large: float,
    precision: Precision | None = None,
    axis: str = "dp",
    strategy: Strategy = Strategy(),
) -> tuple[Trainer, list[float], list[bool], list[int]]:
    """Return (the trainer, losses, whether each batch was skipped, activation bytes this rank sent for each)."""
    trainer = Trainer(
        bulging(), world, mesh=Mesh(world, **{axis: world.size}), precision=precision, schedule=0.01,
        accumulate=2 if axis == "pp" else 1, optimizer=partial(Adam, epsilon=1e-4),
        scaler=DynamicScaler(4.0, floor=0.125) if precision else None, strategy=strategy,
    )  # fmt: skip
    losses, skipped, sent = [], [], []
    for number in numbers:
        with Ledger().open() as ledger:
            update = trainer.step(rows(number, large))
        losses.append(update.loss)
        skipped.append(update.skipped)
        sent.append(ledger.bytes[DOWN])
    trainer.close()
    return trainer, losses, skipped, sent


@pytest.mark.parametrize(
    ("axis", "strategy"),
    [("dp", Strategy()), ("pp", Strategy()), ("dp", Strategy(zero=3)), ("dp", Strategy(recompute=2))],
)
@pytest.mark.ranks(2)
def test_a_layer_goes_back_to_float32_on_all_ranks(world: Communicator, axis: str, strategy: Strategy) -> None:
    """Only one rank sees the overflow: the one with the large sample, or the one with the layer."""
    precision, every = Remembers(), list(range(2 * PATIENCE + 2 * REST))
    trainer, losses, skipped, sent = learn(world, every, LARGE, precision, axis, strategy)
    require = world.rank == {"dp": 1, "pp": 0}[axis]
    assert precision.overflowed == ({"bulge"} if require else set())
    rest_again = [True] * PATIENCE + [False] * REST
    assert skipped == rest_again * 2
    assert trainer.updates == 2 * REST and trainer.scaler.value == 4 / 2 ** (2 * PATIENCE)
    assert world.gather_objects(precision.resting) == [{}, {}]  # tried again in half precision in the next batch

    good = [number for number, left_out in zip(every, skipped, strict=True) if not left_out]
    _, true, _, _ = learn(world_of_one(), good, LARGE)
    found = [losses[number] for number in good]
    assert np.allclose(found, true, rtol=0.02), "not as in float32"
    assert np.mean(found[-4:]) < 0.8 * np.mean(found[:4]), "it learns"

    half = 2 * ROWS * D  # bytes the first stage sends; twice as many in float32, including the diagnosis of a bad batch
    if axis == "pp" and world.rank == 0:
        assert sent == [half + 2 * half if left_out else 2 * half for left_out in skipped]


@pytest.mark.parametrize("axis", ["dp", "pp"])
@pytest.mark.ranks(2)
def test_no_layer_goes_back_without_a_reason(world: Communicator, axis: str) -> None:
    precision = Remembers()
    _, _, skipped, sent = learn(world, [0, 1, 2], 0.1, precision, axis)
    assert not any(skipped) and not precision.resting and not precision.overflowed
    assert axis == "dp" or world.rank == 1 or sent == [2 * ROWS * D] * 3


@pytest.mark.parametrize(("reduce_once", "dtype"), [(True, np.float16), (False, np.float32)])
def test_half_gradients_are_added_up_in_float32(reduce_once: bool, dtype: Any) -> None:
    """A shard that accumulates several backwards is float32; one that is reduced once stays in half precision."""

    def program(world: Communicator) -> set[Any]:
        trainer = Trainer(
            small_gpt(), world, precision=StaticPolicy(HALF16), half_weights=True, accumulate=2,
            strategy=Strategy(zero=2, reduce_once=reduce_once),
        )  # fmt: skip
        trainer.step(text(0))
        reducer: Any = trainer.reducer
        trainer.close()
        return {shard.dtype for shard in reducer.grads.values()}

    assert threads.run(2, program) == [{np.dtype(dtype)}] * 2
