"""Buckets hold every parameter once, as views of one array, in the order in which backward completes them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minitrain.autograd import apply
from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.models import GPTConfig, gpt
from minitrain.nn import Parameter, Replicate, Shard
from minitrain.parallel.buckets import Bucket, make_buckets

KIB = 1 / 1024  # MiB


def mesh() -> Mesh:
    return Mesh(world_of_one())


def parameter(path: str, n: int = 32, dtype: str = "float64", decay: bool = True) -> Parameter:
    return Parameter(path, (n,), std=1.0, dtype=dtype, decay=decay)


def bucket(*sizes: tuple[int, ...]) -> Bucket:
    return Bucket([Parameter(f"p{i}", shape, std=1.0) for i, shape in enumerate(sizes)], world_of_one())


def paths(buckets: list[Bucket]) -> list[list[str]]:
    return [[p.placement.path for p in b.parameters] for b in buckets]


def test_an_owner_has_a_piece_of_a_parameter_that_is_empty_here() -> None:
    """Other ranks along tp may hold rows of it, and call a collective for it."""

    def program(world: Communicator) -> list[list[str]]:
        parameters = [Parameter(f"p{i}", (n,), std=1.0) for i, n in enumerate((4, 0, 3))]
        made = Bucket(parameters, world, owners=[0, 1, 1])
        return [[piece.parameter.placement.path for piece in made.part(rank)] for rank in range(2)]

    assert threads.run(2, program) == [[["p0"], ["p1", "p2"]]] * 2


# Which parameter goes where ---------------------------------------------------------------------------------


def test_filled_from_the_end_up_to_the_limit() -> None:
    """Four parameters of 32 float64 numbers fill a KiB."""
    ps = [parameter(f"{i}") for i in range(10)]
    assert paths(make_buckets(ps, KIB, mesh())) == [list("9876"), list("5432"), list("10")]
    assert paths(make_buckets(ps, 0.99 * KIB, mesh()))[0] == list("987")
    assert paths(make_buckets(ps, 1000, mesh())) == [list("9876543210")]
    assert paths(make_buckets(ps, float("inf"), mesh())) == [list("9876543210")]


def test_sizes_are_those_of_this_rank_unless_parameters_have_owners() -> None:
    """Owners see the logical sizes: here twice as large, so that each parameter has a bucket of its own."""

    def buckets(world: Communicator, make: Callable[..., list[Bucket]] = make_buckets) -> int:
        mesh, ps = Mesh(world, tp=2), [Parameter(name, (4, 2), dtype=np.float64) for name in "ab"]
        for p in ps:
            p.placement = p.placement.shard("tp", Shard(0, 1), 2, world.rank)
        return len(make(ps, 64 / 2**20, mesh))

    assert threads.run(2, buckets) == [1, 1]
    assert threads.run(2, lambda world: buckets(world, partial(make_buckets, whole=True))) == [2, 2]


def test_a_parameter_above_the_limit_has_a_bucket_of_its_own() -> None:
    ps = [parameter("a"), parameter("large", 1000), parameter("b"), parameter("c")]
    assert paths(make_buckets(ps, KIB, mesh())) == [["c", "b"], ["large"], ["a"]]


def test_kinds_do_not_mix() -> None:
    plain, single, whole = parameter("plain"), parameter("single", dtype="float32"), parameter("whole")
    bias, frozen, split = parameter("bias", decay=False), parameter("frozen"), parameter("split")
    frozen.requires_grad = False
    whole.placement = whole.placement.replicate("dp", (0,))
    split.placement = split.placement.replicate("tp", (0,))
    copied, summed = parameter("copied"), parameter("summed")
    copied.placement = replace(copied.placement, axes={"tp": Replicate((0,))})
    summed.placement = replace(summed.placement, partial={"tp": (0,)})
    kinds = [plain, single, bias, frozen, whole, split, copied, summed]
    more = [parameter("again"), parameter("and again")]
    buckets = make_buckets([*kinds, *more], 1000, mesh())
    assert sorted(map(sorted, paths(buckets))) == sorted(
        [["again", "and again", "plain"], *([p.placement.path] for p in kinds[1:])]
    )
    for b in buckets:
        for p in b.parameters:
            assert (b.dtype, b.decay, b.trained) == (p.dtype, p.decay, p.requires_grad)
            assert (b.replicas, b.partial) == (p.placement.replicas, p.placement.partial)


def test_the_order_of_axes_makes_no_kind() -> None:
    a, b = parameter("a"), parameter("b")
    a.placement = a.placement.replicate("dp", (0,)).replicate("tp", (0,))
    b.placement = b.placement.replicate("tp", (0,)).replicate("dp", (0,))
    assert len(make_buckets([a, b], 1000, mesh())) == 1


def test_every_parameter_of_a_model_once_and_the_tied_one_last() -> None:
    model = gpt(GPTConfig(11, 5, layers=3, heads=3, width=9))
    table = model.units[0].tokens.weight  # type: ignore[attr-defined]
    for megabytes in (1e-9, 0.001, 0.003, 1000):
        buckets = make_buckets(model.parameters(), megabytes, mesh())
        held = [p for b in buckets for p in b.parameters]
        assert len(held) == len(set(held)) and set(held) == set(model.parameters())
        assert all(p.bucket is b for b in buckets for p in b.parameters)
        assert buckets[-1].parameters[-1] is table
        first_use = {p: i for i, p in enumerate(model.parameters())}
        earliest = [min(first_use[p] for p in b.parameters) for b in buckets]
        assert earliest == sorted(earliest, reverse=True)
        within = [[first_use[p] for p in b.parameters] for b in buckets]
        assert all(order == sorted(order, reverse=True) for order in within)


@pytest.mark.parametrize("megabytes", [0, -1, float("nan")])
def test_a_size_that_cannot_be_filled(megabytes: float) -> None:
    with pytest.raises(ValueError, match=f"{megabytes} megabytes"):
        make_buckets([parameter("a")], megabytes, mesh())


# One bucket -------------------------------------------------------------------------------------------------


def test_parameters_are_views_of_the_flat_array() -> None:
    b = bucket((2, 3), (), (4,), (0, 5))
    flat = np.arange(11, dtype=np.float32)
    b.attach(flat)
    assert b.size == 11
    assert [p.data.tolist() for p in b.parameters] == [[[0, 1, 2], [3, 4, 5]], 6, [7, 8, 9, 10], []]
    flat[4] = -1
    assert b.parameters[0].data[1, 1] == -1
    b.parameters[2].data[...] = 20
    assert flat[7:].tolist() == [20] * 4


def test_values_are_those_of_each_parameter() -> None:
    b = bucket((2, 3), (4,))
    flat = b.initial_values(seed=3)
    assert flat.dtype == np.float32 and flat.shape == (10,)
    assert np.array_equal(flat, np.concatenate([p.initial_values(3).reshape(-1) for p in b.parameters]))


def test_values_may_be_taken_away() -> None:
    b = bucket((2,))
    b.attach(b.initial_values(1))
    b.attach(None)
    with pytest.raises(RuntimeError, match="p0"):
        _ = b.parameters[0].data


def contribution(value: float, seen: list[bool]) -> object:
    """Return a vjp that gives `value` everywhere and records whether it was given an `out`."""

    def vjp(g: Array, out: Array | None = None) -> Array:
        seen.append(out is not None)
        if out is None:
            return np.full_like(g, value)
        out[...] = value
        return out

    return vjp


def test_the_first_contribution_is_written_and_the_next_is_added() -> None:
    b, seen = bucket((3,), (2,)), list[bool]()
    p, q = b.parameters
    b.place_gradients(np.full(5, np.nan, np.float32))
    g = np.zeros(3, np.float32)
    for value in (1.0, 2.0, 4.0):
        p.accumulate(contribution(value, seen), g)  # type: ignore[arg-type]
    assert seen == [True, False, False]
    assert b.grad is not None and b.grad[:3].tolist() == [7, 7, 7] and np.isnan(b.grad[3:]).all()
    assert p.grad is not None and np.shares_memory(p.grad, b.grad)
    b.fill()
    assert b.grad.tolist() == [7, 7, 7, 0, 0]
    b.written.clear()  # the next step
    p.accumulate(contribution(5.0, seen), g)  # type: ignore[arg-type]
    assert b.grad[:3].tolist() == [5, 5, 5] and q.grad is not None


def test_gradients_have_a_place_from_the_first_one_to_the_next_step() -> None:
    b = bucket((3,), (2,))
    p, q = b.parameters
    assert b.grad is None and p.grad is None
    place, first = b.take(p)
    assert first and place is p.grad and q.grad is not None
    assert b.grad is not None and np.shares_memory(place, b.grad)
    b.release_gradients()
    assert b.grad is None and p.grad is None and q.grad is None
    assert b.take(p)[1]


def test_a_vjp_that_has_no_use_for_out() -> None:
    """A vjp that ignores `out` has its result copied into place; a weight without a vjp is only counted."""
    p = Parameter("p", (3,), std=1.0, dtype=np.float64)
    (bucket,) = make_buckets([p], 1.0, Mesh(world_of_one()))
    bucket.attach(bucket.initial_values(0))
    bucket.place_gradients(np.full(3, np.nan))
    fired: list[Parameter] = []
    p.on_ready = fired.append
    y = apply(np.zeros(3), weights=[(p, lambda g, out=None: 2 * g), (p, None)])
    y.backward(np.ones(3))
    assert bucket.grad is not None and bucket.grad.tolist() == [2, 2, 2] and fired == [p]
