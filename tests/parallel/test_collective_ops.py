"""The six operations: values, gradients checked across ranks, dtypes, and bytes sent.

Gradients are checked against a loss L that depends on the inputs of all ranks. If each rank continues with its own
work, L = sum over ranks r of sum(c_r y_r). If all ranks continue identically with the same c, L is what any one of them
computes. If all ranks hold the same x, it is perturbed on all of them at once.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.observe.ledger import Ledger
from minitrain.parallel.collective_ops import all_gather, copy_to, gather_from, reduce_from, reduce_scatter, split_to
from minitrain.sharding import even_shards, lengths, shard_of
from minitrain.tensor import Tensor
from tests.gradcheck import BOUND, STEP, Array, as_activations, close, names_what_it_keeps, pull

TAG = ("tp", "test")
Call = Callable[[Tensor, Communicator, int, int], Tensor]  # (x, group, axis, n)


class Row(NamedTuple):
    """An operation and its contract."""

    name: str
    call: Call
    true: Callable[[list[Array], int, Any], Array]  # y from all ranks' x, the axis, the own shard's index
    even_shards: bool  # x is a shard; otherwise whole
    one_input: bool  # all ranks hold the same x
    one_output: bool  # all ranks continue identically
    forward: str = ""  # the collective used
    backward: str = ""


ROWS = {
    row.name: row
    for row in (
        Row("copy_to", lambda x, g, axis, n: copy_to(x, g, TAG),
            lambda xs, axis, own: xs[0], False, True, False, "", "all-reduce"),
        Row("reduce_from", lambda x, g, axis, n: reduce_from(x, g, TAG),
            lambda xs, axis, own: np.sum(xs, axis=0), False, False, True, "all-reduce", ""),
        Row("split_to", lambda x, g, axis, n: split_to(x, g, TAG, axis),
            lambda xs, axis, own: xs[0][own], False, True, False, "", "all-gather"),
        Row("gather_from", lambda x, g, axis, n: gather_from(x, g, TAG, axis, n),
            lambda xs, axis, own: np.concatenate(xs, axis), True, False, True, "all-gather", ""),
        Row("all_gather", lambda x, g, axis, n: all_gather(x, g, TAG, axis, n),
            lambda xs, axis, own: np.concatenate(xs, axis), True, False, False, "all-gather", "reduce-scatter"),
        Row("reduce_scatter", lambda x, g, axis, n: reduce_scatter(x, g, TAG, axis),
            lambda xs, axis, own: np.sum(xs, axis=0)[own], False, False, False, "reduce-scatter", "all-gather"),
    )
}  # fmt: skip
every = pytest.mark.parametrize("name", ROWS)
SIZES = [(axis, n) for axis in (0, 1, 2) for n in (5, 2)]  # on 3 ranks: shards of 2, 2, 1 and of 1, 1, 0


def shape_of(axis: int, n: int) -> tuple[int, ...]:
    """Return the shape of the whole array, with n along the axis."""
    shape = [2, 3, 2]
    shape[axis] = n
    return tuple(shape)


def cut(axis: int, own: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (own,)


def inputs(row: Row, size: int, axis: int, n: int, dtype: Any = np.float64) -> list[Array]:
    """Return every rank's x. Values are multiples of 1/4, so sums are exact."""
    whole = shape_of(axis, n)
    initialized = [np.random.default_rng(0 if row.one_input else r).integers(-8, 9, whole) / 4 for r in range(size)]
    return [
        np.ascontiguousarray(x[cut(axis, shard_of(n, size, r))] if row.even_shards else x, dtype)
        for r, x in enumerate(initialized)
    ]


# Values and gradients -------------------------------------------------------------------------------------------------


def gradcheck(world: Communicator, row: Row, axis: int, n: int) -> float:
    """Assert that y is right, and return the worst difference between backward and central differences on any rank."""
    xs = inputs(row, world.size, axis, n)
    rank = world.rank
    operation = lambda x: row.call(x, world, axis, n)
    y, c, (gx,) = pull(operation, [xs[rank]], seed=0 if row.one_output else 100 + rank)
    np.testing.assert_array_equal(y, row.true(xs, axis, cut(axis, shard_of(n, world.size, rank))))

    mine = []
    holders = [None] if row.one_input else range(world.size)  # None: every rank
    places = [(holder, i) for holder in holders for i in range(xs[holder or 0].size)]
    for holder, i in places:
        for h in (STEP, -STEP):
            x = xs[rank].copy()
            if holder in (None, rank):
                x.reshape(-1)[i] += h
            mine.append(float((c * operation(Tensor(x)).data).sum()))
    parts = world.gather_objects(mine)
    assert not row.one_output or all(part == parts[0] for part in parts)
    L = np.array(parts[0]) if row.one_output else np.sum(parts, axis=0)
    slopes = (L[::2] - L[1::2]) / (2 * STEP)
    own = [k for k, (holder, _) in enumerate(places) if holder in (None, rank)]
    return max(world.gather_objects(close(gx.reshape(-1), slopes[own], floor=1e-2)))


@pytest.mark.parametrize(("axis", "n"), SIZES)
@every
def test_gradients_across_three_ranks(name: str, axis: int, n: int) -> None:
    worst = threads.run(3, lambda world: gradcheck(RingCommunicator(world), ROWS[name], axis, n))
    assert max(worst) <= BOUND


@every
@pytest.mark.ranks(3, full=(2, 4))
def test_gradients_under_mpi(world: Communicator, name: str) -> None:
    """Check MPI's own collectives and the ring."""
    for group in (world, RingCommunicator(world)):
        assert gradcheck(group, ROWS[name], axis=1, n=3) <= BOUND


WRONG: dict[str, Call] = {  # same y, wrong backward
    "copy_to": lambda x, g, axis, n: x + 0.0,
    "reduce_from": lambda x, g, axis, n: reduce_from(copy_to(x, g, TAG), g, TAG),
    "split_to": lambda x, g, axis, n: x[cut(axis, shard_of(n, g.size, g.rank))],
    "gather_from": ROWS["all_gather"].call,
    "all_gather": ROWS["gather_from"].call,
    "reduce_scatter": lambda x, g, axis, n: reduce_from(x, g, TAG)[cut(axis, shard_of(n, g.size, g.rank))],
}


@every
def test_the_check_sees_a_wrong_backward(name: str) -> None:
    """gather_from in place of all_gather loses the other ranks' gradients; the converse counts them N times."""
    row = ROWS[name]._replace(call=WRONG[name])
    assert max(threads.run(3, lambda world: gradcheck(world, row, axis=1, n=5))) > 0.1


# What they leave unchanged, and what they save ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@every
def test_the_dtype_stays_and_nothing_is_kept(name: str, dtype: Any) -> None:
    row = ROWS[name]

    def program(world: Communicator) -> None:
        world = RingCommunicator(world)
        xs = inputs(row, 3, 1, 5, dtype)
        operation = lambda x: row.call(x, world, 1, 5)
        y, _, _ = pull(operation, [xs[world.rank]])  # also asserts the gradient's dtype
        assert y.dtype == dtype and y.flags.c_contiguous
        np.testing.assert_array_equal(y, row.true(xs, 1, cut(1, shard_of(5, 3, world.rank))))
        node = as_activations(operation, [xs[world.rank]]).node
        assert node is not None and node.saved == ()
        names_what_it_keeps(node, 1)

    threads.run(3, program)


# Bytes sent -----------------------------------------------------------------------------------------------------------


def elements(collective: str, size: int, rank: int, axis: int, n: int) -> int:
    """Return elements sent in a ring: all shards but this rank's (reduce-scatter) or the next one's (all-gather)."""
    whole = int(np.prod(shape_of(axis, n)))
    following = (rank + 1) % size
    if collective == "all-reduce":
        pieces = lengths(even_shards(whole, size))
        return 2 * whole - pieces[rank] - pieces[following]
    kept = {"reduce-scatter": rank, "all-gather": following}
    return (n - lengths(even_shards(n, size))[kept[collective]]) * (whole // n) if collective else 0


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("axis", "n"), SIZES)
@every
def test_bytes(name: str, axis: int, n: int, size: int) -> None:
    """Bytes match the table exactly on each rank: 2 (N-1) M or (N-1) M in total. A group of one sends no messages."""
    row = ROWS[name]

    def program(world: Communicator) -> tuple[int, int]:
        for group, kind in ((world, "charged"), (RingCommunicator(world), "bytes")):
            x = Tensor(inputs(row, size, axis, n)[world.rank], requires_grad=True)
            with Ledger().open() as forward:
                y = row.call(x, group, axis, n)
            with Ledger().open() as backward:
                y.backward(np.ones(y.shape))
            assert size > 1 or not forward.messages + backward.messages
            for ledger, collective in ((forward, row.forward), (backward, row.backward)):
                mine = Counter({TAG: 8 * elements(collective, size, world.rank, axis, n)})
                assert ledger.bytes + ledger.charged == +getattr(ledger, kind) == +mine
        return forward.bytes[TAG], backward.bytes[TAG]

    M = 8 * int(np.prod(shape_of(axis, n)))
    units = {"": 0, "all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
    sent = np.sum(threads.run(size, program), axis=0)
    assert sent.tolist() == [units[kind] * (size - 1) * M for kind in (row.forward, row.backward)]


@every
def test_a_group_of_one_changes_nothing(name: str) -> None:
    row, world = ROWS[name], RingCommunicator(threads.world_of_one())
    x = inputs(row, 1, 1, 5)[0]
    y, c, (gx,) = pull(lambda t: row.call(t, world, 1, 5), [x])
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(gx, c)
