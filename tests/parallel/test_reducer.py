"""The reducer counts gradients: a bucket is reduced when complete, always in the same order; mistakes are reported."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from minitrain import functional as F
from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, mlp
from minitrain.nn import Module, Parameter
from minitrain.optim import SGD
from minitrain.parallel.buckets import Bucket, make_buckets
from minitrain.parallel.data_parallel import Bucketed, Naive
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import DividedModel, Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.tensor import Tensor


class Recorder(Reducer):
    """Records which buckets are reduced, and their gradients."""

    def __init__(self, divided: DividedModel) -> None:
        self.calls: list[str] = []
        self.seen: list[list[float]] = []
        super().__init__(divided)

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        assert flat is bucket.grad and group is bucket.group
        self.calls.append("".join(p.placement.path for p in bucket.parameters))
        self.seen.append(flat.tolist())


class Late(Recorder):
    early = False


def parameters(names: str) -> list[Parameter]:
    return [Parameter(name, (2,), std=1.0, dtype=np.float64) for name in names]


def recorder(ps: list[Parameter], kind: type[Recorder] = Recorder, in_a_bucket: int = 2) -> Recorder:
    """Return a reducer with buckets of `in_a_bucket` parameters: by default [d c] [b a] for a, b, c, d."""
    made = kind(divided(ps, in_a_bucket * 16 / 2**20))
    made.init(1)
    return made


def divided(ps: Sequence[Parameter], megabytes: float) -> DividedModel:
    """Return a model with these parameters in buckets of this size."""
    mesh, model = Mesh(world_of_one()), Module()
    model.__dict__["parameters_of_it"] = [*ps]
    return DividedModel(model, mesh, make_buckets(ps, megabytes, mesh))


def loss(ps: Sequence[Parameter], factor: float = 1.0) -> Tensor:
    """Return factor x the sum of all elements: every gradient is `factor`, and the last parameter completes first."""
    x = Tensor(np.zeros(2))
    for p in ps:
        x = x + p * factor
    return F.sum(x)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_step_has_one_backward_unless_told_otherwise(zero: int) -> None:
    """Before the first start_step(), too. The second backward would add to a gradient that was already reduced."""
    model = mlp(MLPConfig(inputs=2, hidden=(3,), classes=2))
    reducer = parallelize(model, Mesh(world_of_one(), dp=1), Strategy(zero=zero))
    reducer.init(1)
    batch = ArrayLoader(np.ones((4, 2), np.float32), np.array([0, 1, 1, 0]), batch=4, seed=1).batch(0)
    for start in (lambda: None, reducer.start_step):
        start()
        model(batch).backward()
        with pytest.raises(RuntimeError, match="fired 2 times in a step of 1 backwards"):
            model(batch).backward()


def test_the_ranks_seeds_are_compared_unless_told_otherwise() -> None:
    def program(world: Communicator) -> None:
        ps = parameters("ab")
        mesh, model = Mesh(world, dp=2), Module()
        model.__dict__["parameters_of_it"] = ps
        Reducer(DividedModel(model, mesh, make_buckets(ps, 1.0, mesh))).init(seed=world.rank)

    with pytest.raises(RuntimeError, match="seed: 0 on rank 0; 1 on rank 1"):
        threads.run(2, program)


def test_a_bucket_leaves_in_the_last_backward() -> None:
    ps = parameters("abcd")
    reducer = recorder(ps)
    reducer.start_step(backwards=3)
    for i in range(3):
        assert reducer.calls == []
        loss(ps, factor=10**i).backward()
        if i < 2:
            reducer.end_backward()
    assert reducer.calls == ["dc", "ba"]  # during the third backward
    reducer.end_backward()
    reducer.synchronize()
    assert reducer.calls == ["dc", "ba"] and reducer.seen == [[111] * 4] * 2


def test_the_next_step_begins_anew() -> None:
    ps = parameters("abcd")
    reducer = recorder(ps)
    for step in range(3):
        reducer.start_step()
        loss(ps, factor=step + 1).backward()
        reducer.end_backward()
        reducer.synchronize()
    assert reducer.calls == ["dc", "ba"] * 3
    assert reducer.seen == [[k] * 4 for k in (1, 1, 2, 2, 3, 3)]


def test_some_leave_only_at_the_end() -> None:
    ps = parameters("abcd")
    reducer = recorder(ps, Late)
    reducer.start_step()
    loss(ps).backward()
    reducer.end_backward()
    assert reducer.calls == []
    reducer.synchronize()
    assert reducer.calls == ["dc", "ba"]


def test_which_strategies_are_early() -> None:
    assert Bucketed.early and not Naive.early


def test_unused_parameters_count_when_a_backward_ends() -> None:
    ps = parameters("abcd")
    reducer = recorder(ps)
    reducer.start_step(backwards=2)
    reducer.buckets[0].place_gradients(np.full(4, np.nan))
    for _ in range(2):
        loss([ps[0], ps[1], ps[2]]).backward()
        assert reducer.calls == []  # d was not reached, and later buckets must wait
        reducer.end_backward()
    assert reducer.calls == ["dc", "ba"]
    assert reducer.seen[0] == [0, 0, 2, 2]
    reducer.synchronize()


def test_used_in_one_micro_batch_only() -> None:
    ps = parameters("ab")
    reducer = recorder(ps)
    reducer.start_step(backwards=3)
    for used in ([ps[0]], ps, [ps[0]]):
        loss(used).backward()
        reducer.end_backward()
    reducer.synchronize()
    assert reducer.seen == [[1, 1, 3, 3]]  # b, a


def test_no_parameter_used_at_all() -> None:
    reducer = recorder(parameters("abcd"))
    reducer.start_step()
    reducer.end_backward()
    reducer.synchronize()
    assert reducer.seen == [[0] * 4] * 2 and reducer.norm() == 0


def test_one_order_whatever_becomes_ready_first() -> None:
    ps = parameters("abcd")
    for order in ("dcba", "abcd", "bdac"):
        reducer = recorder(ps, in_a_bucket=1)
        reducer.start_step()
        left = []
        for name in order:
            loss([ps["abcd".index(name)]]).backward()
            left.append("".join(reducer.calls))
        assert reducer.calls == list("dcba")
        assert (
            left
            == {
                "dcba": ["d", "dc", "dcb", "dcba"],
                "abcd": ["", "", "", "dcba"],
                "bdac": ["", "d", "d", "dcba"],
            }[order]
        )


def test_firing_twice_is_told() -> None:
    ps = parameters("ab")
    reducer = recorder(ps)
    reducer.start_step()
    ps[0].ready()
    with pytest.raises(RuntimeError, match="a fired 2 times in a step of 1"):
        ps[0].ready()


def test_a_backward_too_many_is_told() -> None:
    ps = parameters("ab")
    reducer = recorder(ps)
    reducer.start_step(backwards=2)
    for _ in range(2):
        loss(ps).backward()
        reducer.end_backward()
    with pytest.raises(RuntimeError, match="fired 3 times in a step of 2"):
        loss(ps).backward()


@pytest.mark.parametrize("kind", [Recorder, Late])
def test_finishing_too_early_is_told(kind: type[Recorder]) -> None:
    ps = parameters("ab")
    reducer = recorder(ps, kind)
    reducer.start_step(backwards=2)
    loss(ps).backward()
    reducer.end_backward()
    with pytest.raises(RuntimeError, match=r"2 backwards.*b"):
        reducer.synchronize()
    assert reducer.calls == []


def test_forgetting_end_backward_is_told() -> None:
    ps = parameters("ab")
    reducer = recorder(ps)
    reducer.start_step()
    loss([ps[0]]).backward()
    with pytest.raises(RuntimeError, match="waiting for b"):
        reducer.synchronize()


def test_a_bucket_across_pipeline_stages_leaves_only_at_the_end() -> None:
    """Reduced in a hook, it would wait for a stage that is not ready yet. It does not hold up other buckets."""
    ps = parameters("abc")
    ps[1].placement = ps[1].placement.replicate("pp", (0,))
    reducer = recorder(ps, in_a_bucket=1)
    reducer.start_step()
    loss(ps).backward()
    reducer.end_backward()
    assert reducer.calls == ["c", "a"]
    reducer.synchronize()
    assert reducer.calls == ["c", "a", "b"]


def frozen_and_free() -> tuple[Parameter, Parameter]:
    frozen, free = parameters("ab")
    frozen.requires_grad = False
    return frozen, free


@pytest.mark.parametrize("kind", [Reducer, Naive, Bucketed])
def test_a_frozen_parameter_is_not_trained(kind: Callable[[DividedModel], Reducer]) -> None:
    frozen, free = frozen_and_free()
    reducer = kind(divided([frozen, free], 1.0))
    reducer.init(5)
    assert np.array_equal(frozen.data, frozen.initial_values(5)) and np.array_equal(free.data, free.initial_values(5))
    reducer.start_step()
    loss([frozen, free], factor=3.0).backward()
    reducer.end_backward()
    reducer.synchronize()
    assert [owned.data.size for owned in reducer.owned()] == [2]
    assert reducer.norm() == pytest.approx(18**0.5, rel=1e-15)
    SGD(reducer).step(0.5)
    assert np.array_equal(frozen.data, frozen.initial_values(5)) and frozen.grad is None
    assert np.array_equal(free.data, free.initial_values(5) - 1.5)


def test_owned_is_what_the_parameters_see() -> None:
    ps = parameters("abcd")
    ps[3].decay = False
    reducer = recorder(ps)
    with pytest.raises(RuntimeError, match="no gradients now"):
        reducer.owned()
    loss(ps).backward()
    assert [(len(owned.data), owned.decay) for owned in reducer.owned()] == [(2, False), (4, True), (2, True)]
    for owned in reducer.owned():
        owned.data[...] = 7
    assert all((p.data == 7).all() for p in ps)
