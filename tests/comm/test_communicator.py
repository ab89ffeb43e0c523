"""Collectives, messages and groups agree with plain NumPy, under MPI and under threads."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError
from minitrain.observe.ledger import Ledger
from minitrain.sharding import shard_of

TAG = ("dp", "test")
DTYPES = ("float16", "float32", "float64")
SHAPES = [(0,), (1,), (2,), (3,), (4,), (5,), (7,), (1000,)]  # shorter than N, not divisible by N, empty


def arrays(n: int, shape: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    """Return every rank's array, the same list on all ranks."""
    return [np.random.default_rng(rank).standard_normal(shape).astype(dtype) for rank in range(n)]


def total(parts: list[np.ndarray]) -> np.ndarray:
    return np.sum([part.astype(np.float64) for part in parts], axis=0)


def close(found: np.ndarray, true: np.ndarray) -> bool:
    """Return whether they agree up to the rounding of a few additions in found's dtype."""
    return bool((np.abs(found - true) <= 16 * np.finfo(found.dtype).eps).all())


# Checks for every kind of rank: functions of a world --------------------------------------------------------


def all_reduce_sum(world: Communicator) -> None:
    for dtype in DTYPES:
        for shape in [*SHAPES, (3, 5), (2, 0), ()]:
            parts = arrays(world.size, shape, dtype)
            x = parts[world.rank].copy()
            world.all_reduce(x, TAG)
            assert x.dtype == dtype and x.shape == shape
            assert close(x, total(parts)), (dtype, shape)


def all_reduce_max(world: Communicator) -> None:
    for dtype in DTYPES:
        for shape in [*SHAPES, (3, 5)]:
            parts = arrays(world.size, shape, dtype)
            x = parts[world.rank].copy()
            world.all_reduce(x, TAG, op="max")
            assert np.array_equal(x, np.max(parts, axis=0)), (dtype, shape)


def nan_is_the_maximum(world: Communicator) -> None:
    """As in NumPy, NaN wins: from any rank, at either end of a short or long array, with either sign."""
    for dtype in DTYPES:
        for length in (2 * world.size, 1000, 50_000):
            x = np.arange(length).astype(dtype)
            x[world.rank], x[-1 - world.rank] = np.nan, -np.nan
            world.all_reduce(x, TAG, op="max")
            true = np.arange(length).astype(dtype)
            true[: world.size] = true[-world.size :] = np.nan
            assert np.array_equal(x, true, equal_nan=True), (dtype, length)


def half_is_summed_in_float32(world: Communicator) -> None:
    """In float16, 2048 + 1 is 2048: adding in float16 loses the ones in any order of ranks."""
    n = world.size
    mine = np.where(np.arange(n) == world.rank, 2048, 1).astype(np.float16)
    true = np.float16(2048 + n - 1)
    assert n < 3 or np.float16(2048) + np.float16(1) < true
    x = mine.copy()
    world.all_reduce(x, TAG)
    assert (x == true).all(), x
    assert (world.reduce_scatter(mine.copy(), TAG) == true).all()


def only_half_precision_takes_a_second_array(world: Communicator) -> None:
    for dtype, copies in ((np.float16, 2), (np.float32, 0), (np.float64, 0)):  # a float32 copy has twice the bytes
        x = np.ones(1000, dtype)
        with Ledger().open() as ledger:
            ledger.hold(x, "gradients")
            world.all_reduce(x, TAG)
        assert ledger.peak == (1 + (copies if world.size > 1 else 0)) * x.nbytes


def reduce_scatter(world: Communicator) -> None:
    for dtype in DTYPES:
        for shape in SHAPES:
            parts = arrays(world.size, shape, dtype)
            x = parts[world.rank].copy()
            mine = world.reduce_scatter(x, TAG)
            cut = shard_of(shape[0], world.size, world.rank)
            assert mine.dtype == dtype and mine.shape == x[cut].shape
            assert mine.size == 0 or np.shares_memory(mine, x)
            assert close(mine, total(parts)[cut]) and close(x[cut], total(parts)[cut]), (dtype, shape)


def all_gather(world: Communicator) -> None:
    for dtype in (*DTYPES, "int32"):
        for shape in SHAPES:
            whole = (100 * np.random.default_rng(7).random(shape)).astype(dtype)
            cut = shard_of(shape[0], world.size, world.rank)
            x = np.full(shape, -1, dtype)
            x[cut] = whole[cut]
            world.all_gather(x, TAG)
            assert np.array_equal(x, whole), (dtype, shape)


def own_shards(world: Communicator) -> None:
    """Check shards of any lengths: the last rank has most of the rows, the first none."""
    n = world.size
    for dtype in DTYPES:
        for shape in [(7,), (5, 3)]:
            borders = [0] * n + [shape[0]] if n < 3 else [0, 0, *range(1, n - 1), shape[0]]
            shards = [slice(lo, hi) for lo, hi in pairwise(borders)]
            parts = arrays(n, shape, dtype)
            x, own = parts[world.rank].copy(), shards[world.rank]
            assert close(world.reduce_scatter(x, TAG, shards), total(parts)[own])
            x[: own.start], x[own.stop :] = -1, -1
            world.all_gather(x, TAG, shards)
            assert close(x, total(parts)), (dtype, shape)
            x = parts[world.rank].reshape(-1).copy()
            world.all_reduce(x, TAG, shards=[slice(0, len(x))] + [slice(len(x), len(x))] * (n - 1))
            assert close(x, total(parts).reshape(-1))


def wrong_cuts(world: Communicator) -> None:
    """A gap, an overlap, an extra shard or another length is refused: ranks would read each other's shards."""
    n, x = world.size, np.zeros(6)
    right = [slice(0, 6)] + [slice(6, 6)] * (n - 1)
    for wrong in (
        [slice(1, 6), *right[1:]],
        [*right[:-1], slice(5, 6)],
        [*right, slice(6, 6)],
        [slice(0, 5), *right[1:]],
    ):
        for call in (
            world.all_gather,
            world.reduce_scatter,
            lambda x, tag, shards: world.all_reduce(x, tag, shards=shards),
        ):
            if wrong != right:
                with pytest.raises(ValueError, match="do not cover 6 elements in order"):
                    call(x, TAG, wrong)


def broadcast(world: Communicator) -> None:
    for root in range(world.size):
        for dtype in (*DTYPES, "int64"):
            for shape in [*SHAPES, (3, 5)]:
                parts = arrays(world.size, shape, dtype)
                x = parts[world.rank].copy()
                world.broadcast(x, root, TAG)
                assert np.array_equal(x, parts[root]), (root, dtype, shape)


def all_ranks_get_equal_bits(world: Communicator) -> None:
    for dtype in DTYPES:
        for n in (1, 5, 1000, 100_001):
            x = arrays(world.size, (n,), dtype)[world.rank]
            world.all_reduce(x, TAG)
            assert len({*world.gather_objects(x.tobytes())}) == 1, (dtype, n)


def messages_are_told_apart_by_number(world: Communicator) -> None:
    n, me = world.size, world.rank
    for dtype in DTYPES:
        sent = [np.full((number + 1, 2), 10 * me + number, dtype) for number in range(3)]
        handles = [world.send(x, (me + 1) % n, TAG, number) for number, x in enumerate(sent)]
        before = (me - 1) % n
        for number in (2, 0, 1):
            x = np.empty((number + 1, 2), dtype)
            world.receive(x, before, TAG, number)
            assert (x == 10 * before + number).all(), (dtype, number)
        for handle in handles:
            handle.wait()


def messages_of_one_number_keep_their_order(world: Communicator) -> None:
    n, me = world.size, world.rank
    others = [r for r in range(n) if r != me]
    handles = [world.send(np.array([float(i), me]), to, TAG, 5) for i in range(3) for to in others]
    for source in others:
        for i in range(3):
            x = np.empty(2)
            world.receive(x, source, TAG, 5)
            assert x.tolist() == [i, source]
    for handle in handles:
        handle.wait()


def large_and_empty_messages(world: Communicator) -> None:
    """All ranks send before any receives: blocking sends of this size would deadlock."""
    n, me = world.size, world.rank
    large, nothing = np.full(300_000, float(me)), np.empty((0, 3))
    handles = [world.send(large, (me + 1) % n, TAG, 1), world.send(nothing, (me + 1) % n, TAG, 2)]
    x = np.empty(300_000)
    world.receive(np.empty((0, 3)), (me - 1) % n, TAG, 2)
    world.receive(x, (me - 1) % n, TAG, 1)
    assert (x == (me - 1) % n).all()
    for handle in handles:
        handle.wait()


def objects_are_gathered_in_order(world: Communicator) -> None:
    found = world.gather_objects({"rank": world.rank, "name": "x" * world.rank})
    assert found == [{"rank": rank, "name": "x" * rank} for rank in range(world.size)]


def nobody_leaves_a_barrier_early(world: Communicator) -> None:
    if world.rank == world.size - 1:
        time.sleep(0.2)
    arrived = time.monotonic()  # one clock for all processes of a machine
    world.barrier()
    times = world.gather_objects((arrived, time.monotonic()))
    assert min(left for _, left in times) >= max(came for came, _ in times)


def subgroups_have_the_given_order(world: Communicator) -> None:
    """Only the members call subgroup; the other ranks do something else meanwhile."""
    if world.size > 2 and world.rank != 1:
        for members in ([0, 2], [2, 0]):
            if world.rank not in members:
                continue
            group = world.subgroup(members)
            assert (group.size, group.rank) == (2, members.index(world.rank))
            assert group.gather_objects(world.rank) == members
            x = np.array([1.0, 10.0, 100.0]) * (world.rank + 1)
            group.all_reduce(x, TAG)
            assert x.tolist() == [4.0, 40.0, 400.0]
            if group.rank == 0:
                group.send(np.array([7.0]), 1, TAG).wait()
            else:
                group.receive(x[:1], 0, TAG)
                assert x[0] == 7
            alone = group.subgroup([group.rank])
            assert (alone.rank, alone.size) == (0, 1)
    x = np.ones(3)
    world.all_reduce(x, TAG)
    assert (x == world.size).all()


def duplicates_have_messages_of_their_own(world: Communicator) -> None:
    other = world.duplicate()
    third = world.duplicate()
    assert (other.rank, other.size) == (world.rank, world.size)
    n, me = world.size, world.rank
    lines = ((1.0, world), (2.0, other), (3.0, third), (4.0, other.duplicate()))
    handles = [c.send(np.array([value]), (me + 1) % n, TAG) for value, c in lines]
    x = np.empty(1)
    for value, c in reversed(lines):
        c.receive(x, (me - 1) % n, TAG)
        assert x[0] == value
    for handle in handles:
        handle.wait()
    third.all_reduce(x, TAG)
    assert x[0] == n


def freed_duplicates_leave_room_for_others(world: Communicator) -> None:
    """MPICH has 2048 communicators per process, and a closed trainer must give its own back."""
    for _ in range(2100):
        RingCommunicator(world.duplicate()).free()  # two: a ring has a channel, too
    assert world.gather_objects(world.rank) == list(range(world.size))


def a_thread_may_work_on_a_duplicate(world: Communicator) -> None:
    other, results = world.duplicate(), []

    def work() -> None:
        for _ in range(20):
            y = np.full(5, 1.0)
            other.all_reduce(y, TAG)
            results.append(y)

    helper = threading.Thread(target=work)
    helper.start()
    for i in range(20):
        x = np.full(3, float(i))
        world.all_reduce(x, TAG)
        assert (x == i * world.size).all()
    helper.join(20)
    assert len(results) == 20 and all((y == world.size).all() for y in results)


def strided_arrays_are_refused(world: Communicator) -> None:
    for x in (np.ones(8)[::2], np.ones((3, 4)).T):
        calls: list[Callable[[], Any]] = [
            lambda x=x: world.all_reduce(x, TAG),  # type: ignore[misc]
            lambda x=x: world.reduce_scatter(x, TAG),  # type: ignore[misc]
            lambda x=x: world.all_gather(x, TAG),  # type: ignore[misc]
            lambda x=x: world.broadcast(x, 0, TAG),  # type: ignore[misc]
            lambda x=x: world.send(x, 0, TAG),  # type: ignore[misc]
            lambda x=x: world.receive(x, 0, TAG),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(ValueError, match="contiguous") as error:
                call()
            assert str(x.shape) in str(error.value) and str(x.strides) in str(error.value)


def shares_are_runs_of_the_first_axis(world: Communicator) -> None:
    """Several axes are split by rows, unevenly if N does not divide them; a scalar is refused."""
    N, mine = world.size, shard_of(7, world.size, world.rank)
    x = np.arange(42.0).reshape(7, 2, 3)
    assert np.array_equal(world.reduce_scatter(x * (world.rank + 1), TAG), x[mine] * (N * (N + 1) // 2))
    y = np.full((7, 2, 3), np.nan)
    y[mine] = x[mine]
    world.all_gather(y, TAG)
    assert np.array_equal(y, x)
    for call in (world.reduce_scatter, world.all_gather):
        with pytest.raises(ValueError, match="runs of the first axis"):
            call(np.ones(()), TAG)


def messages_of_another_size_are_refused(world: Communicator) -> None:
    """Filling half of the array, or repeating one number, would go unnoticed."""
    if world.size < 2:
        return
    if world.rank == 0:
        world.send(np.ones(2), 1, TAG).wait()
    if world.rank == 1:
        with pytest.raises(ValueError, match=r"16 bytes arrived.*\(4,\).*32 bytes"):
            world.receive(np.zeros(4), 0, TAG)


def objects_are_copies(world: Communicator) -> None:
    mine = np.zeros(2)
    everybody = world.gather_objects(mine)
    world.barrier()
    mine += world.rank + 1
    world.barrier()
    assert all((other == 0).all() for other in everybody)


def a_note_is_that_of_the_rank_asked(world: Communicator) -> None:
    """Debug mode asks one rank after the other, and another's note may be there before."""
    if world.size < 3:
        return
    for early_or_late in (1, 2):
        if world.rank == early_or_late:
            world._tell(f"from {world.rank}", 0, 5)
        world.barrier()
    if world.rank == 0:
        assert world._hear(2, 5) == "from 2"
        assert world._hear(1, 5) == "from 1"
    world.barrier()


def unknown_ranks_and_operations_are_refused(world: Communicator) -> None:
    x = np.ones(2)
    for wrong in (-1, world.size, 99):
        for call in (
            lambda wrong=wrong: world.broadcast(x, wrong, TAG),
            lambda wrong=wrong: world.send(x, wrong, TAG),
            lambda wrong=wrong: world.receive(x, wrong, TAG),
        ):
            with pytest.raises(ValueError, match=f"rank {wrong} .* 0 to {world.size - 1}"):
                call()
    with pytest.raises(ValueError, match=r"'min'.*'sum', 'max'"):
        world.all_reduce(x, TAG, op="min")


CHECKS = pytest.mark.parametrize(
    "check",
    [
        all_reduce_sum,
        all_reduce_max,
        nan_is_the_maximum,
        half_is_summed_in_float32,
        only_half_precision_takes_a_second_array,
        reduce_scatter,
        all_gather,
        own_shards,
        wrong_cuts,
        broadcast,
        all_ranks_get_equal_bits,
        messages_are_told_apart_by_number,
        messages_of_one_number_keep_their_order,
        large_and_empty_messages,
        objects_are_gathered_in_order,
        nobody_leaves_a_barrier_early,
        subgroups_have_the_given_order,
        duplicates_have_messages_of_their_own,
        a_thread_may_work_on_a_duplicate,
        freed_duplicates_leave_room_for_others,
        strided_arrays_are_refused,
        shares_are_runs_of_the_first_axis,
        messages_of_another_size_are_refused,
        objects_are_copies,
        a_note_is_that_of_the_rank_asked,
        unknown_ranks_and_operations_are_refused,
    ],
    ids=lambda check: check.__name__,
)


@CHECKS
@pytest.mark.ranks(2, 3, full=(4,), limit=20)
def test_mpi(world: Communicator, check: Callable[[Communicator], None]) -> None:
    check(world)


@CHECKS
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_threads(size: int, check: Callable[[Communicator], None]) -> None:
    threads.run(size, check, timeout=20)


# MPI only ---------------------------------------------------------------------------------------------------


@pytest.mark.ranks(2)
def test_the_world_is_not_freed(world: Communicator) -> None:
    with pytest.raises(ValueError, match=r"what subgroup\(\) and duplicate\(\) returned; MPI itself ends the world"):
        world.free()


@pytest.mark.ranks(3)
@pytest.mark.parametrize("size", [2, 3, 7, 12])
def test_a_large_all_reduce_goes_in_pieces(size: int, world: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three numbers each here; the last piece is shorter where three do not divide the size."""
    from minitrain.comm import mpi

    monkeypatch.setattr(mpi, "PIECE", 24)
    for dtype in (np.float64, np.int64):
        x = (np.arange(size, dtype=dtype) + 1) * 10**world.rank
        whole = x.reshape(1, size, 1)
        world.all_reduce(whole, ("dp", "test"))
        assert x.tolist() == [111 * (i + 1) for i in range(size)]


@pytest.mark.ranks(2)
def test_errors_of_mpi(world: Communicator) -> None:
    """A failed receive is not taken for a message that is too long; a failed Dup comes with advice."""
    from minitrain.comm.mpi import MPI, MPICommunicator  # here, since the import starts MPI

    def fail(*_: object) -> None:
        raise MPI.Exception(MPI.ERR_OTHER)

    broken = MPICommunicator(MPI.COMM_WORLD)
    broken.comm = SimpleNamespace(Recv=fail, Dup=fail)  # type: ignore[assignment]
    with pytest.raises(MPI.Exception) as error:
        broken.receive(np.ones(2), 0, TAG)
    assert error.value.Get_error_class() == MPI.ERR_OTHER
    with pytest.raises(UserError, match=r"MPI made no further communicator \(.+\).* 2048 .*\n.*close\(\) .* free\(\)"):
        broken.duplicate()


# Threads only -----------------------------------------------------------------------------------------------


def test_results_come_in_rank_order() -> None:
    def program(world: Communicator) -> int:
        time.sleep(0.05 * (3 - world.rank))
        return 10 * world.rank

    assert threads.run(4, program) == [0, 10, 20, 30]


def test_a_message_is_a_copy() -> None:
    def program(world: Communicator) -> None:
        if world.rank == 0:
            x = np.arange(4.0)
            world.send(x, 1, TAG).wait()
            x[...] = -1
            world.barrier()
        else:
            world.barrier()
            y = np.empty(4)
            world.receive(y, 0, TAG)
            assert y.tolist() == [0, 1, 2, 3]

    threads.run(2, program)


def in_barrier(world: Communicator) -> None:
    world.barrier()


def in_all_reduce(world: Communicator) -> None:
    world.all_reduce(np.ones(3), TAG)


def in_receive(world: Communicator) -> None:
    world.receive(np.ones(3), 1, TAG)


def in_subgroup(world: Communicator) -> None:
    """Ranks 0 and 2 wait for each other in nested groups; rank 0 does not arrive."""
    group = world.subgroup([0, 2]).duplicate()
    if world.rank == 0:
        world.receive(np.ones(3), 1, TAG)
    group.all_reduce(np.ones(3), TAG)


WAITS = [in_barrier, in_all_reduce, in_receive, in_subgroup]


@pytest.mark.parametrize("wait", WAITS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_an_exception_ends_those_that_wait(wait: Callable[[Communicator], None], delay: float) -> None:
    stopped: list[int] = []

    def program(world: Communicator) -> None:
        if world.rank == 1:
            time.sleep(delay)
            raise ZeroDivisionError("the cause")
        try:
            wait(world)
        except threads.RankFailed:
            stopped.append(world.rank)
            raise

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="rank 1 of 3 raised ZeroDivisionError: the cause") as error:
        threads.run(3, program, timeout=30)
    assert time.monotonic() - began < 2
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert sorted(stopped) == [0, 2]


def test_leaving_by_sys_exit_is_a_failure() -> None:
    def program(world: Communicator) -> None:
        if world.rank == 1:
            raise SystemExit(3)
        world.barrier()

    with pytest.raises(RuntimeError, match="rank 1 of 2 raised SystemExit: 3"):
        threads.run(2, program, timeout=30)


def test_time_limit_names_the_late_ranks() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"0\.2 s.*rank 1$"):
        threads.run(2, lambda world: world.rank == 1 and release.wait(20), timeout=0.2)
    release.set()


def test_time_limit_is_for_all_ranks_together() -> None:
    release, began = threading.Event(), time.monotonic()
    with pytest.raises(TimeoutError, match="rank 0, rank 1, rank 2, rank 3"):
        threads.run(4, lambda world: release.wait(20), timeout=0.5)
    release.set()
    assert time.monotonic() - began < 1.5


def test_time_limit_ends_the_ranks_that_wait_for_a_late_one() -> None:
    release, stopped = threading.Event(), threading.Event()

    def program(world: Communicator) -> None:
        if world.rank == 1:
            release.wait(20)
            return
        try:
            world.barrier()
        except threads.RankFailed:
            stopped.set()
            raise

    with pytest.raises(TimeoutError, match="rank 0, rank 1"):
        threads.run(2, program, timeout=0.2)
    assert stopped.wait(2)
    release.set()


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int16, np.uint16])
def test_no_sum_of_small_integers(dtype: type) -> None:
    """In uint8, 200 + 100 would be 44; a maximum cannot overflow."""

    def program(world: Communicator) -> None:
        x: np.ndarray = np.ones(4, dtype)
        for call in (world.all_reduce, world.reduce_scatter):
            with pytest.raises(ValueError, match=f"sums over ranks of {np.dtype(dtype)} may overflow"):
                call(x, ("dp", "x"))
        world.all_reduce(x, ("dp", "x"), op="max")
        assert (x == 1).all()

    threads.run(2, program)


def test_the_size_of_a_collective_is_computed_only_for_a_ledger() -> None:
    """It takes almost as long as a small all-reduce."""
    asked: list[int] = []

    def size() -> int:
        asked.append(8)
        return 8

    world_of_one()._charge(("dp", "x"), size)
    assert not asked
    with Ledger().open() as ledger:
        world_of_one()._charge(("dp", "x"), size)
    assert asked == [8] and ledger.charged == {("dp", "x"): 8}


def test_a_group_of_one_rank_communicates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world, x = world_of_one(), np.arange(3.0)
    for name in ("_all_reduce", "_reduce_scatter", "_all_gather", "_broadcast"):
        monkeypatch.setattr(world, name, lambda *_, name=name: pytest.fail(f"{name} is called"))
    with Ledger().open() as ledger:
        world.all_reduce(x, TAG)
        world.all_gather(x, TAG)
        world.broadcast(x, 0, TAG)
        assert world.reduce_scatter(x, TAG).tolist() == x.tolist() == [0, 1, 2]
    assert not ledger.charged and not ledger.bytes


def test_every_communication_is_counted() -> None:
    """The watch takes a rank whose count does not change for one that is stuck."""

    def program(world: Communicator) -> None:
        x, other = np.ones(4), 1 - world.rank
        calls: list[Callable[[], object]] = [
            lambda: world.all_reduce(x, TAG), lambda: world.reduce_scatter(x, TAG), lambda: world.all_gather(x, TAG),
            lambda: world.broadcast(x, 0, TAG), lambda: world.barrier(), lambda: world.gather_objects(1),
            lambda: sent.append(world.send(x, other, TAG)), lambda: world.receive(np.empty(4), other, TAG),
            lambda: world.subgroup([0, 1]), lambda: world.duplicate(),
        ]  # fmt: skip
        sent: list[Any] = []
        for i, call in enumerate(calls):
            before = world.moves.count
            call()
            assert world.moves.count > before, f"call {i}"
        sent[0].wait()

    threads.run(2, program)
