"""A single overflow in one rank's gradients makes all ranks skip the batch, and the run continues as if that batch had
never existed. A loss scale that is a power of two changes no bit."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.reducer import Reducer, require
from minitrain.parallel.zero import Zero1, Zero3
from minitrain.precision import DynamicPolicy, DynamicScaler, Scaler, StaticScaler, not_finite
from minitrain.sharding import shard_of
from minitrain.train.step import train_step
from tests.equivalence.harness import STRATEGIES, Case, Tensors, Training, difference, toy_batch
from tests.equivalence.harness import train as train_alike
from tests.parallel.test_zero import bits
from tests.tiers import full

BATCHES, BOUND = 4, 1e-12
SCALES = {(1,): [1024, 512, 512, 1024], (0, 1): [512, 256, 256, 512]}  # bad batches -> S after each of the four
Step = Callable[..., tuple[float, float]]

moving = partial(DynamicScaler, 1024.0, interval=2)  # two good batches in a row double it


@dataclass(frozen=True)
class Spot:
    """The first (0) or last (-1) element of the bucket that holds this parameter on this rank, and its new value."""

    rank: int
    path: str
    end: int = 0
    value: float = math.inf

    def bucket(self, reducer: Reducer) -> Bucket:
        (found,) = (b for b in reducer.trained for p in b.parameters if p.placement.path == self.path)
        return found

    def hit(self, world: Communicator, reducer: Reducer) -> str:
        """Return the path of the parameter that contains the element. Collective."""
        mine = world.rank == self.rank
        return world.gather_objects(self.bucket(reducer).parameters[self.end].placement.path if mine else "")[self.rank]

    def poison(self, reducer: Reducer) -> Callable[[], None]:
        """Return a function that arms one injection: the value is written just before the bucket is sent."""
        chosen = self.bucket(reducer)
        if isinstance(reducer, Zero1) and chosen.group.size > 1:
            owned = shard_of(chosen.size, chosen.group.size, chosen.group.rank)
            assert self.end % chosen.size not in range(owned.start, owned.stop), "another rank should own it"
        armed, detach = [False], reducer.detach

        def wrapped(bucket: Bucket) -> Array:
            if armed[0] and bucket is chosen:
                armed[0] = False
                require(bucket.grad)[self.end] = self.value
            return detach(bucket)

        reducer.detach = wrapped  # type: ignore[method-assign]
        return partial(armed.__setitem__, 0, True)


@dataclass
class Story:
    """One rank's record of a run."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)  # batches that changed nothing
    updates: list[int] = field(default_factory=list)  # the optimizer's update count after each batch
    skips: int = 0
    parameters: Tensors = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)


def state(training: Training) -> list[bytes]:
    """Return everything that an update changes on this rank, except the number of updates."""
    reducer, optimizer = training.reducer, training.optimizer
    arrays = [b.data for b in reducer.buckets if b.data is not None]
    arrays += [require(bucket.shard) for bucket in reducer.buckets] if isinstance(reducer, Zero3) else []
    arrays += [array for states in optimizer.state for array in states]
    return [array.tobytes() for array in arrays]


def tell(
    world: Communicator, case: Case, spots: tuple[Spot, ...], bad: tuple[int, ...], step: Step = train_step
) -> Story:
    """Train on four batches. The `bad` ones are spoiled, or left out if there are no spots."""
    story, training = Story(), Training(world, case)
    dp = training.mesh.coordinates["dp"], training.mesh.sizes["dp"]
    spoil = [spot.poison(training.reducer) for spot in spots if spot.rank == world.rank]
    for number in range(BATCHES):
        if number in bad and not spots:
            continue
        for arm in spoil if number in bad else ():
            arm()
        before, mine = state(training), toy_batch(number, case.B).part(*dp)
        loss, norm = step(
            training.model, mine, training.reducer, training.optimizer, training.lr, case.accumulate, case.clip,
            training.scaler,
        )  # fmt: skip
        if number not in bad:
            story.losses.append(sum(training.mesh.group("dp", "pp").gather_objects(loss)))
        story.norms.append(norm)
        story.scales.append(training.scaler.value)
        story.updates.append(training.optimizer.updates)
        if state(training) == before:
            story.left_out.append(number)
    story.skips = training.scaler.skips
    story.parameters = training.gather("data")
    if case.how != "zero3":  # under ZeRO-3 no rank holds a replica
        parameters = training.model.parameters()
        story.held = {f"{p.placement.path} {p.placement.index}": p.data.tobytes() for p in parameters}
    training.reducer.close()
    return story


@cache
def without(bad: tuple[int, ...], accumulate: int) -> Story:
    """Run on one process, without a loss scale and without the bad batches."""
    return tell(world_of_one(), Case(optimizer="adam", clip=0.5, accumulate=accumulate), (), bad)


def complaint(stories: list[Story], bad: tuple[int, ...], scales: list[int], accumulate: int) -> str:
    """Return the first thing that is wrong, or an empty string."""
    left_out = [story.left_out for story in stories]
    if any(other != left_out[0] for other in left_out):
        return f"the ranks leave different batches out: {left_out}"
    if left_out[0] != list(bad):
        return f"batches {left_out[0]} change nothing, not {list(bad)}"
    true = without(bad, accumulate)
    counted = [sum(number not in bad for number in range(n + 1)) for n in range(BATCHES)]
    for rank, story in enumerate(stories):
        if story.updates != counted:
            return f"rank {rank} counts {story.updates} updates, not {counted}"
        if story.scales != scales or story.skips != len(bad):
            return f"rank {rank} has the scales {story.scales} and {story.skips} skips, not {scales} and {len(bad)}"
        if [n for n, norm in enumerate(story.norms) if not math.isfinite(norm)] != list(bad):
            return f"rank {rank} has the norms {story.norms}, which should be infinite in batches {list(bad)}"
        norms = [norm for norm in story.norms if math.isfinite(norm)]
        for what, found, right in (("losses", story.losses, true.losses), ("norms", norms, true.norms)):
            if not np.allclose(found, right, rtol=BOUND, atol=0):
                return f"rank {rank} has the {what} {found}, not {right}"
        if not difference(story.parameters, true.parameters) <= BOUND:
            return f"rank {rank}: the parameters are not those of a run without batches {list(bad)}"
    copies: dict[str, set[bytes]] = {}
    for story in stories:
        for slice_of, values in story.held.items():
            copies.setdefault(slice_of, set()).add(values)
    torn = [slice_of for slice_of, values in copies.items() if len(values) > 1]
    return f"copies differ: {torn[:3]}" if torn else ""


# The axes -------------------------------------------------------------------------------------------------------------

UP, NORM, TOKENS = "blocks.1.mlp.up.weight", "blocks.1.norm1.weight", "embed.tokens.weight"
FIRST, HEAD = "blocks.0.attn.qkv.weight", "head.norm.weight"
SPOILED: list[tuple[int, Case, tuple[Spot, ...]]] = [
    *((3, Case(strategy), (Spot(2, FIRST),)) for strategy in STRATEGIES),  # in rank 0's shard
    *((3, Case(s, accumulate=2), (Spot(0, TOKENS, -1),)) for s in ("dp-bucketed", "zero1", "zero2", "zero3")),
    *((3, Case(s), (Spot(0, UP, -1), Spot(1, UP, -1, -math.inf))) for s in ("dp-bucketed", "zero2")),  # inf - inf
    (3, Case(), (Spot(1, UP, 0, math.nan),)),
    # A slice that only one rank holds, and a replicated parameter that overflows on one rank
    *((3, Case(s, layout=layout), (Spot(1, UP),)) for s in ("dp-bucketed", "dp-overlap") for layout in ("tp", "sp")),
    *((3, Case(layout=layout), (Spot(2, NORM),)) for layout in ("tp", "sp")),
    *(
        (4, Case(strategy, layout=layout, tp=2, accumulate=k), (Spot(2, UP),))
        for strategy, layout, k in (
            ("dp-bucketed", "tp", 2), ("zero1", "tp", 1), ("zero2", "tp", 2), ("zero3", "tp", 1),
            ("dp-overlap", "sp", 1), ("zero1", "sp", 2), ("zero2", "sp", 1), ("zero3", "sp", 2),
        )
    ),
    # One stage, and a weight shared by the first and last stages
    *((3, Case(s, layout="pp", pp=3, accumulate=2), (Spot(0, FIRST),)) for s in ("dp-bucketed", "dp-overlap", "zero1")),
    *((3, Case(layout="pp", pp=3, accumulate=3), (Spot(r, p),)) for r, p in ((1, UP), (2, HEAD), (2, TOKENS))),
    (3, Case(layout="pp", pp=3, accumulate=3, schedule="zb-h1"), (Spot(1, UP),)),
    *(
        (4, Case(s, layout="pp", pp=2, accumulate=2), (Spot(3, UP),))
        for s in ("dp-bucketed", "dp-overlap", "zero1")
    ),
    (4, Case(layout="pp+tp", pp=2, tp=2, accumulate=2), (Spot(3, UP),)),
]  # fmt: skip


def title(ranks: int, case: Case, spots: tuple[Spot, ...]) -> str:
    where = ", ".join(f"{spot.value} in {spot.path}[{spot.end}] of rank {spot.rank}" for spot in spots)
    tp = case.tp or (ranks if case.layout in ("tp", "sp") else 1)
    mesh = f"{case.layout} of {ranks} ranks, pp {case.pp} {case.schedule}, tp {tp}"
    return f"{case.strategy}, {mesh}, {case.accumulate} micro-batches, {where}"


def spoiled(
    world: Communicator,
    case: Case,
    spots: tuple[Spot, ...],
    bad: tuple[int, ...] = (1,),
    step: Step = train_step,
    scaler: Callable[[], Scaler] = moving,
) -> str:
    """Return the complaint about one run, the same on every rank."""
    story = tell(world, replace(case, optimizer="adam", clip=0.5, scaler=scaler), spots, bad, step)
    return complaint(world.gather_objects(story), bad, SCALES[bad], case.accumulate)


@pytest.mark.parametrize(
    ("ranks", "case", "spots"),
    [full(*row) if row[1].strategy.endswith(("once", "overlap", "prefetch")) else row for row in SPOILED],
    ids=[title(*row) for row in SPOILED],
)
def test_all_ranks_leave_the_batch_out(
    ranks: int, case: Case, spots: tuple[Spot, ...], patience: float = 20, **hooks: Any
) -> None:
    """Used by the museum. doors: arguments of `spoiled`."""
    try:
        found = threads.run(ranks, lambda world: spoiled(RingCommunicator(world), case, spots, **hooks), patience)
    except TimeoutError as error:
        raise AssertionError(f"the ranks wait for each other: {error}") from error
    assert not any(found), found[0]


@pytest.mark.parametrize("strategy", ["dp-bucketed", "zero1", "zero3"])
def test_the_first_batches(strategy: str) -> None:
    """Two bad batches in a row, before the optimizer has any state."""
    spots = (Spot(1, FIRST, 0), Spot(1, UP, -1))
    assert threads.run(3, lambda world: spoiled(world, Case(strategy), spots, (0, 1))) == [""] * 3


UNDER_MPI = [row for row in SPOILED if row[1].how in ("bucketed", "zero1", "zero3") or row[1].strategy == "dp-overlap"]


@pytest.mark.parametrize(
    ("world", "case", "spots"),
    [row if row[1].layout == "pp+tp" else full(*row) for row in UNDER_MPI],
    indirect=["world"],
    ids=[title(*row) for row in UNDER_MPI],
)
def test_under_mpi(world: Communicator, case: Case, spots: tuple[Spot, ...]) -> None:
    assert spoiled(world, case, spots, (1,)) == ""


# A power of two -------------------------------------------------------------------------------------------------------

MESHES: list[tuple[int, Case]] = [
    *((3, Case(strategy, accumulate=3)) for strategy in STRATEGIES),
    *((4, Case("zero1", layout=layout, tp=2)) for layout in ("tp", "sp")),
    (4, Case("zero1", layout="pp", pp=2, accumulate=3)),
    (4, Case(layout="pp+tp", pp=2, tp=2, accumulate=3)),
]
QUICK = (("zero3", "dp"), ("zero1", "sp"), ("zero1", "pp"))


@pytest.mark.parametrize(
    ("ranks", "case"),
    [row if (row[1].strategy, row[1].layout) in QUICK else full(*row) for row in MESHES],
    ids=[title(*row, ()) for row in MESHES],
)
def test_a_power_of_two_changes_no_bit(ranks: int, case: Case) -> None:
    """Losses, norms, the optimizer's gradients and parameters are unchanged. (A scale of 1000 changes some.)"""
    case = replace(case, optimizer="adam", clip=0.5)

    def same(world: Communicator) -> list[bool]:
        plain = bits(train_alike(RingCommunicator(world), case))
        scaled = (replace(case, scaler=kind) for kind in (DynamicScaler, partial(StaticScaler, 1000.0)))
        return [bits(train_alike(RingCommunicator(world), other)) == plain for other in scaled]

    assert threads.run(ranks, same) == [[True, False]] * ranks


# Which layer ----------------------------------------------------------------------------------------------------------

BLAMED: list[tuple[int, Case, Spot]] = [
    *((3, Case(strategy), Spot(2, FIRST)) for strategy in STRATEGIES),
    *(
        (3, Case(s, accumulate=2), Spot(0, "blocks.0.norm1.bias", -1)) for s in ("zero1", "zero2", "zero3")
    ),  # small parameters
    *((3, Case(layout=layout), Spot(1, FIRST)) for layout in ("tp", "sp")),
    *((4, Case(s, layout="tp", tp=2), Spot(2, FIRST)) for s in ("zero1", "zero2", "zero3")),
    *((3, Case(s, layout="pp", pp=3, accumulate=2), Spot(0, FIRST)) for s in ("dp-bucketed", "zero1")),
    (4, Case("zero1", layout="pp", pp=2, accumulate=2), Spot(2, FIRST)),
]


@pytest.mark.parametrize(("ranks", "case", "spot"), BLAMED, ids=[title(n, case, (spot,)) for n, case, spot in BLAMED])
def test_all_ranks_blame_the_same_layer(ranks: int, case: Case, spot: Spot) -> None:
    """The scale is at its floor, and the layer's gradients overflow in one rank's shard, slice or stage."""

    def blamed(world: Communicator) -> dict[str, int]:
        precision = DynamicPolicy(patience=2, rest=9)
        precision.layers = ("embed", "blocks.0", "blocks.1", "head")
        training = Training(world, replace(case, scaler=partial(DynamicScaler, 1.0)))
        arm = spot.poison(training.reducer) if world.rank == spot.rank else lambda: None
        for _ in range(2):
            assert not precision.resting
            arm()
            training.step(0)
            found = world.gather_objects(not_finite(training.reducer))
            assert set().union(*found) == {spot.hit(world, training.reducer)}
            precision.skipped(training.reducer, training.scaler.value <= 1)
        training.reducer.close()
        return precision.resting

    assert threads.run(ranks, blamed) == [{"blocks.0": 9}] * ranks
