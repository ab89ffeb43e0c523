"""Initialization is a separate step; the model is rescanned when it may have changed; pipelines can be observed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.errors import UserError
from minitrain.models import Model
from minitrain.observe.clock import Clock, Stamps
from minitrain.observe.ledger import Ledger
from minitrain.observe.observer import observing
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.pipeline_schedules import Do, all_ranks
from minitrain.parallel.pipeline_simulation import simulate
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.train.checkpoint import gather, restore
from minitrain.train.step import compute_gradients
from tests.equivalence.harness import toy_batch, toy_gpt
from tests.strategies import named

# Initial values -------------------------------------------------------------------------------------------------------

USES: dict[str, Callable[[Model, Reducer], Any]] = {
    "begin": lambda model, reducer: reducer.start_step(),
    "owned": lambda model, reducer: reducer.owned(),
    "norm": lambda model, reducer: reducer.norm(),
    "gather": lambda model, reducer: gather(model, reducer.world, reducer=reducer),
    "a step": lambda model, reducer: compute_gradients(model, toy_batch(0), reducer),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", REDUCERS)
def test_a_reducer_without_values_is_not_used(how: str, use: str) -> None:
    model = toy_gpt()
    reducer = parallelize(model, Mesh(threads.world_of_one()), named(how))
    with pytest.raises(UserError, match=r"no values yet: call init\(seed\)"):
        USES[use](model, reducer)
    reducer.init(3)
    reducer.start_step()
    reducer.close()


@pytest.mark.parametrize("how", REDUCERS)
def test_init_gives_the_values_of_the_seed(how: str) -> None:
    """The values equal those that `Module.init` gives on one process; before, there are none."""
    true = toy_gpt()
    true.init(5)

    def program(world: Communicator) -> dict[str, np.ndarray]:
        model = toy_gpt()
        reducer = parallelize(model, Mesh(world, dp=2), named(how))
        assert not any(p.initialized for p in model.parameters()) and not any(
            b.data is not None for b in reducer.buckets
        )
        reducer.init(5)
        found = gather(model, world, reducer=reducer)
        reducer.close()
        return found

    for found in threads.run(2, program):
        for p in true.parameters():
            np.testing.assert_array_equal(found[p.placement.path], p.data)


def test_init_makes_one_bucket_at_a_time() -> None:
    """Under ZeRO-3 no rank ever holds the whole model, only all its shards plus one bucket."""

    def program(world: Communicator) -> None:
        reducer = parallelize(toy_gpt(layers=8), Mesh(world, dp=2), Strategy(zero=3, bucket_mb=1e-3))
        initialized: list[int] = []
        place = reducer.place

        def noted(bucket: Any, flat: np.ndarray) -> None:
            initialized.append(sum(b.shard is not None for b in reducer.buckets))
            place(bucket, flat)

        reducer.place = noted  # type: ignore[method-assign]
        with Ledger().open() as ledger:
            reducer.init(1)
        assert initialized == list(range(len(reducer.buckets))) and len(initialized) > 8
        assert ledger.live["parameters"] == sum(b.shard.nbytes for b in reducer.buckets if b.shard is not None)

    threads.run(2, program)


def test_values_that_come_between() -> None:
    """Loading before init would be undone by init, at least in part: it is refused with advice."""
    model, true = toy_gpt(), toy_gpt()
    true.init(7)
    tensors = {p.placement.path: p.data for p in true.parameters()}
    reducer = parallelize(model, Mesh(threads.world_of_one()))
    with pytest.raises(RuntimeError, match=r"no values yet: set them before parallelize, or after init\(seed\)"):
        restore(model, tensors)
    reducer.init(1)
    restore(model, tensors)
    for p, q in zip(model.parameters(), true.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("how", REDUCERS)
def test_seeds_that_differ(how: str) -> None:
    """Seeds that differ between ranks, and an invalid seed, are refused."""

    def program(world: Communicator) -> None:
        reducer = parallelize(toy_gpt(), Mesh(world, dp=2), named(how))
        with pytest.raises(UserError, match="seed is 'x'; it must be a whole number"):
            reducer.init("x")  # type: ignore[arg-type]
        with pytest.raises(UserError, match="seed: 3 on rank 0; 4 on rank 1"):
            reducer.init(3 + world.rank)
        reducer.close()
        apart = parallelize(toy_gpt(), Mesh(world, dp=2), named(how), same=False)
        apart.init(3 + world.rank)  # a lesson wants ranks that differ
        apart.close()

    threads.run(2, program)


@pytest.mark.parametrize("how", REDUCERS)
@pytest.mark.parametrize("initialized", [False, True])
def test_a_released_model_is_free_again(how: str, initialized: bool) -> None:
    """Always before initialization; afterwards, only if every rank holds whole values."""
    model = toy_gpt()
    reducer = parallelize(model, Mesh(threads.world_of_one()), named(how))
    if initialized:
        reducer.init(1)
    reducer.release()
    held = [p for p in model.parameters() if p.bucket is not None]
    assert bool(held) == (initialized and how == "zero3")
    assert held or all(p.on_ready is None and p.initialized == initialized for p in model.parameters())


# A pipeline that is watched -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["zero1", {"zero": 1}, None])
def test_what_is_no_strategy(strategy: Any) -> None:
    with pytest.raises(UserError, match=r"strategy is .*; it must be a Strategy, such as Strategy\(zero=1\)"):
        parallelize(toy_gpt(), Mesh(threads.world_of_one()), strategy)


def test_a_reducer_that_holds_whole_parameters_in_the_place_of_zero3() -> None:
    """It need not override `around`, which ZeRO-3 calls around each unit."""
    found = []
    for strategy in (Strategy(), Strategy(zero=3)):
        model = toy_gpt()
        reducer = parallelize(model, Mesh(threads.world_of_one()), strategy, reducers={**REDUCERS, "zero3": Bucketed})
        reducer.init(3)
        compute_gradients(model, toy_batch(0), reducer)
        found.append(gather(model, reducer.world, "grad", reducer))
    assert all(np.array_equal(found[1][path], g) for path, g in found[0].items())


class Notes:
    """Records a pipeline's events."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begins(self, do: Do) -> None:
        self.told.append(str(do))

    def sends(self, to: int, number: int) -> None:
        self.told.append(f"to {to}")

    def received(self, source: int, number: int, nbytes: int) -> None:
        self.told.append(f"from {source}")


def divided(world: Communicator, **axes: int) -> tuple[Model, Reducer]:
    model = toy_gpt(layers=2, heads=4)
    reducer = parallelize(model, Mesh(world, **axes), Strategy(sp=axes.get("tp", 1) > 1))
    reducer.init(1)
    return model, reducer


def test_an_observer_is_told_what_happens_in_a_step() -> None:
    """Events arrive in order. Evaluation reports none, and nothing is reported without an observer."""

    def program(world: Communicator) -> list[str]:
        (model, reducer), notes = divided(world, pp=2), Notes()
        with observing(notes):
            compute_gradients(model, toy_batch(0), reducer, 2)
            model(toy_batch(1))
        compute_gradients(model, toy_batch(2), reducer, 2)
        return notes.told

    first, last = threads.run(2, program)
    assert first == ["F0", "to 1", "F1", "to 1", "from 1", "B0", "from 1", "B1"]
    assert last == ["from 0", "F0", "B0", "to 0", "from 0", "F1", "B1", "to 0"]


def test_the_look_at_a_divided_model_takes_no_virtual_time() -> None:
    """The check of a divided model runs its forwards outside the step: the first timeline matches the schedule."""

    def program(world: Communicator) -> Any:
        model, reducer = divided(world, pp=2, tp=2)
        clock = Clock()
        with observing(Stamps(clock, reducer.mesh.over("layers"))):
            compute_gradients(model, toy_batch(0), reducer, 3)
        assert reducer.checks is not None, "it was looked at, and will be again"
        return clock.lane

    lanes = threads.run(4, lambda world: program(RingCommunicator(world)), timeout=30)
    true = simulate(all_ranks("1f1b", 2, 3)).lanes
    assert [list(lane) for lane in lanes] == [list(true[rank // 2]) for rank in range(4)]


def test_the_times_are_not_in_the_ledger_of_the_pipeline() -> None:
    """Timestamps have their own tag; the other bytes are the same with and without them."""

    def program(world: Communicator, watched: bool) -> dict[Any, int]:
        model, reducer = divided(world, pp=2)
        observer = Stamps(Clock(), reducer.mesh.over("layers")) if watched else None
        with observing(observer), Ledger().open() as ledger:
            compute_gradients(model, toy_batch(0), reducer, 2)
        return {tag: n for tag, n in ledger.bytes.items() if tag[0] != "clock"}

    plain, watched = (threads.run(2, lambda world: program(RingCommunicator(world), on)) for on in (False, True))  # noqa: B023
    assert plain == watched and all(sum(bytes_.values()) for bytes_ in plain)
