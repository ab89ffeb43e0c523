"""Debug mode names ranks that are about to do different things, with one message on all ranks. Settings are always
compared."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from minitrain import debug
from minitrain.comm import threads
from minitrain.comm.agreement import check_same, sum_if_same
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, AdamW
from minitrain.parallel.strategy import Strategy
from minitrain.train.trainer import Trainer

TAG = ("dp", "test")


@pytest.fixture
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "on", True)


def x_of(comm: Communicator, n: int = 6, dtype: Any = np.float64) -> np.ndarray:
    return np.ones(n, dtype)


# Mistakes of the last rank: its communicator, whether this is the last rank -----------------------------------------


def another_collective(comm: Communicator, odd: bool) -> None:
    x = x_of(comm)
    comm.broadcast(x, 0, TAG) if odd else comm.all_reduce(x, TAG)


def another_operation(comm: Communicator, odd: bool) -> None:
    comm.all_reduce(x_of(comm), TAG, "max" if odd else "sum")


def a_root_of_its_own(comm: Communicator, odd: bool) -> None:
    comm.broadcast(x_of(comm), int(odd), TAG)


def another_dtype(comm: Communicator, odd: bool) -> None:
    comm.all_reduce(x_of(comm, dtype=np.float32 if odd else np.float64), TAG)


def another_dtype_of_the_same_size(comm: Communicator, odd: bool) -> None:
    comm.all_reduce(x_of(comm, dtype=np.int64 if odd else np.float64), TAG)


def another_length(comm: Communicator, odd: bool) -> None:
    comm.reduce_scatter(x_of(comm, 7 if odd else 6), TAG)


def another_shape(comm: Communicator, odd: bool) -> None:
    comm.all_gather(x_of(comm).reshape((2, 3) if odd else (3, 2)), TAG)


def nothing(comm: Communicator, odd: bool) -> None:
    """An empty array needs no communication, so the other ranks would wait for it."""
    comm.all_reduce(x_of(comm, 0 if odd else 6), TAG)


def another_tag(comm: Communicator, odd: bool) -> None:
    comm.all_reduce(x_of(comm), ("dp", "loss" if odd else "test"))


def a_barrier(comm: Communicator, odd: bool) -> None:
    comm.barrier() if odd else comm.all_reduce(x_of(comm), TAG)


def objects(comm: Communicator, odd: bool) -> None:
    comm.gather_objects(1) if odd else comm.barrier()


def a_duplicate(comm: Communicator, odd: bool) -> None:
    comm.duplicate() if odd else comm.all_gather(x_of(comm), TAG)


def two_in_another_order(comm: Communicator, odd: bool) -> None:
    first, second = np.ones(3), np.ones(3)
    for array in (second, first) if odd else (first, second):
        comm.all_reduce(array, TAG)


def two_lines_in_another_order(comm: Communicator, odd: bool) -> None:
    x = x_of(comm)
    if odd:
        there(comm, x)
        here(comm, x)
    else:
        here(comm, x)
        there(comm, x)


def here(comm: Communicator, x: np.ndarray) -> None:
    comm.all_reduce(x, TAG)


def there(comm: Communicator, x: np.ndarray) -> None:
    comm.all_reduce(x, TAG)


def on_a_subgroup(comm: Communicator, odd: bool) -> None:
    pair = comm.subgroup(range(comm.size))
    another_operation(pair, odd)


def on_a_duplicate(comm: Communicator, odd: bool) -> None:
    another_dtype(comm.duplicate(), odd)


def past_the_ring(comm: Communicator, odd: bool) -> None:
    """The communicator inside the ring is a different group, though its ranks are the same."""
    ring = RingCommunicator(comm)
    (comm if odd else ring).all_reduce(x_of(comm), TAG)


def members_in_another_order(comm: Communicator, odd: bool) -> None:
    comm.subgroup([1, 0] if odd else [0, 1])


# mistake -> what differs, and what the last rank is about to do
MISTAKES: dict[Callable[..., None], tuple[str, str]] = {
    another_collective: ("operation", r"broadcast of x: float64 \(6,\), tag \('dp', 'test'\), root 0"),
    another_operation: ("op", r"all_reduce of float64 \(6,\), tag \('dp', 'test'\), op 'max'"),
    a_root_of_its_own: ("root", r"broadcast of float64 \(6,\), tag \('dp', 'test'\), root 1"),
    another_dtype: ("dtype", r"all_reduce of float32 \(6,\)"),
    another_dtype_of_the_same_size: ("dtype", r"all_reduce of int64 \(6,\)"),
    another_length: ("shape", r"reduce_scatter of float64 \(7,\)"),
    another_shape: ("shape", r"all_gather of float64 \(2, 3\)"),
    nothing: ("shape", r"all_reduce of float64 \(0,\)"),
    another_tag: ("tag", r"all_reduce of float64 \(6,\), tag \('dp', 'loss'\)"),
    a_barrier: ("operation", "barrier"),
    objects: ("operation", "gather_objects"),
    a_duplicate: ("operation", "duplicate"),
    two_in_another_order: ("", r"all_reduce of array, first: float64 \(3,\)"),
    two_lines_in_another_order: ("", r"all_reduce of x: float64 \(6,\)"),
    on_a_subgroup: ("op", "all_reduce of float64"),
    on_a_duplicate: ("dtype", "all_reduce of float32"),
    past_the_ring: ("communicator", r"all_reduce of \w+Communicator.* of float64"),
}
mistakes = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)


def named(world: Communicator, mistake: Callable[..., None], ring: bool) -> None:
    """All ranks raise the same error, which names all of them. The ledger counts nothing."""
    comm = RingCommunicator(world) if ring else world.duplicate()
    with Ledger().open() as ledger, pytest.raises(UserError) as error:
        mistake(comm, world.rank == world.size - 1)
    first, second, third = (said := str(error.value)).splitlines()
    differs, does = MISTAKES[mistake]
    assert first.startswith(
        f"ranks differ in {differs}: " if differs else "ranks make the same calls in a different order: "
    )
    others = "rank 0: " if world.size == 2 else f"ranks {', '.join(map(str, range(world.size - 1)))}: "
    assert second.startswith(others) and re.search(r", at \S*test_agreement\.py:\d+$", second), second
    assert re.fullmatch(rf"rank {world.size - 1}: {does}.*, at \S*test_agreement\.py:\d+", third), third
    assert set(world.gather_objects(said)) == {said}
    if differs:
        assert not ledger.bytes and not ledger.charged


@mistakes
@pytest.mark.parametrize("ring", [False, True], ids=["plain", "ring"])
@pytest.mark.usefixtures("debugging")
@pytest.mark.ranks(3, full=(2,), limit=20)
def test_mpi(world: Communicator, mistake: Callable[..., None], ring: bool) -> None:
    named(world, mistake, ring)


@mistakes
@pytest.mark.parametrize("ring", [False, True], ids=["plain", "ring"])
@pytest.mark.usefixtures("debugging")
def test_threads(mistake: Callable[..., None], ring: bool) -> None:
    threads.run(3, lambda world: named(world, mistake, ring), timeout=20)


# What only some ranks can know --------------------------------------------------------------------------------------


def other_members(world: Communicator) -> None:
    with pytest.raises(UserError, match="ranks differ in the members of a subgroup") as error:
        members_in_another_order(world.duplicate(), world.rank == 1)
    _, second, third = str(error.value).splitlines()
    assert re.fullmatch(r"rank 0: subgroup, ranks \[0, 1\], at \S*test_agreement\.py:\d+", second)
    assert re.fullmatch(r"rank 1: subgroup, ranks \[1, 0\], at \S*test_agreement\.py:\d+", third)


MESSAGES = [
    (np.ones(3), TAG, np.ones(3, np.int64), TAG),
    (np.ones(3), TAG, np.ones(4), TAG),
    (np.ones(4), TAG, np.ones(3), TAG),
    (np.ones(3), ("pp", "forward"), np.ones(3), ("pp", "backward")),
]


def another_message(world: Communicator, x: np.ndarray, tag: Any, y: np.ndarray, other: Any) -> None:
    """The receiver names both sides; the sender has already continued."""
    comm = world.duplicate()
    if comm.rank == 0:
        comm.send(x, 1, tag).wait()
    elif comm.rank == 1:
        with pytest.raises(UserError, match="a message does not match its receive") as error:
            comm.receive(y, 0, other)
        _, second, third = str(error.value).splitlines()
        assert second.startswith(f"rank 0: send of x: float64 {x.shape}, tag {tag}, to 1, at ")
        assert third.startswith(f"rank 1: receive of y: {y.dtype} {y.shape}, tag {other}, source 0, at ")


def to_oneself(world: Communicator) -> None:
    x, y = np.arange(3.0), np.zeros(3)
    sent = world.send(x, world.rank, TAG, 4)
    world.receive(y, world.rank, TAG, 4)
    sent.wait()
    assert y.tolist() == [0, 1, 2]


def right(world: Communicator) -> None:
    """Check differences that are allowed: a root elsewhere in the program, or one whose array has another name."""
    x, buffer = np.full(3, 7.0), np.zeros(3)
    for root in (0, 1, 0, 1):
        if world.rank == root:
            world.broadcast(x, root, TAG)
        else:
            world.broadcast(buffer, root, TAG)
    assert buffer.tolist() == [7, 7, 7]
    to_oneself(world)


@pytest.mark.usefixtures("debugging")
@pytest.mark.ranks(2, limit=20)
def test_messages_mpi(world: Communicator) -> None:
    other_members(world)
    right(world)
    for case in MESSAGES:
        another_message(world, *case)


@pytest.mark.usefixtures("debugging")
def test_messages_threads() -> None:
    threads.run(2, other_members, timeout=20)
    threads.run(2, right, timeout=20)
    for case in MESSAGES:
        threads.run(2, lambda world, case=case: another_message(world, *case), timeout=20)  # type: ignore[misc]


@pytest.mark.ranks(2, limit=20)
def test_a_message_that_is_too_long_or_has_a_number_too_large(world: Communicator) -> None:
    """Without debug mode, too, the message is ours, not MPI's."""
    comm = world.duplicate()
    if comm.rank == 0:
        comm.send(np.ones(4), 1, TAG).wait()
    else:
        with pytest.raises(ValueError, match=r"more than the 24 bytes of \(3,\) of float64 arrived"):
            comm.receive(np.ones(3), 0, TAG)
    for call in (comm.send, comm.receive):
        with pytest.raises(ValueError, match=rf"at least 0 and below {comm.numbers}, not {2**62}"):
            call(np.ones(3), 1 - comm.rank, TAG, 2**62)


# Settings of the ranks ------------------------------------------------------------------------------------------------


def train(world: Communicator, odd: dict[str, Any], width: int = 5, data: int = 1, skip: int = 0) -> None:
    """Train three steps with one setting changed on the last rank."""
    last = world.rank == world.size - 1
    model = mlp(MLPConfig(4, (width if last else 5,), 2))
    trainer = Trainer(model, world, **{"optimizer": SGD, "seed": 3, **(odd if last else {})})
    loader = ArrayLoader(np.ones((9, 4), np.float32), np.zeros(9, np.int64), batch=3, seed=data if last else 1)
    for number in range(3):
        trainer.step(loader.batch(number + (skip if last and number else 0)))


GIVEN: list[tuple[dict[str, Any], str]] = [
    ({"odd": {"seed": 4}}, "seed: 3 on {}; 4 on {}"),
    ({"odd": {"clip": 1.0}}, "clip: None on {}; 1.0 on {}"),
    ({"odd": {"accumulate": 2}}, "accumulate: 1 on {}; 2 on {}"),
    ({"odd": {"schedule": 0.01}}, "schedule: 0.001 on {}; 0.01 on {}"),
    ({"odd": {"strategy": Strategy(zero=1)}}, "zero: 0 on {}; 1 on {}"),
    ({"odd": {"optimizer": partial(SGD, momentum=0.9)}}, "optimizer.momentum: 0.0 on {}; 0.9 on {}"),
    ({"odd": {"optimizer": AdamW}}, "optimizer: 'SGD' on {}; 'AdamW' on {}"),
    ({"odd": {}, "width": 6}, r"dense.0.linear.weight: '(4, 5) of float32, std 0.707107' on {}; '(4, 6) of .*' on {}"),
    ({"odd": {}, "data": 2}, "seed: 1 on {}; 2 on {}"),
    ({"odd": {}, "skip": 1}, "batch: 1 on {}; 2 on {}"),
]


def found(world: Communicator, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        train(world, **given)
    first, second, *_ = str(error.value).splitlines()
    assert len(str(error.value).splitlines()) <= 3
    assert first == "ranks were given different values; start all ranks with the same ones"
    ranks = "rank 0" if world.size == 2 else f"ranks {', '.join(map(str, range(world.size - 1)))}"
    pattern = re.escape(said.format(ranks, f"rank {world.size - 1}")).replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, second), second
    assert len(set(world.gather_objects(str(error.value)))) == 1


@pytest.mark.parametrize(
    ("given", "said"), GIVEN, ids=[said.partition(":")[0] + str(i) for i, (_, said) in enumerate(GIVEN)]
)
@pytest.mark.ranks(3, full=(2,), limit=20)
def test_ranks_that_were_given_different_things(world: Communicator, given: dict[str, Any], said: str) -> None:
    found(world, given, said)


def test_numbers_of_numpy_are_numbers() -> None:
    """They are compared by value: 4 and np.int64(4) are the same setting."""

    def program(world: Communicator) -> None:
        check_same(world, {"seed": np.int64(4) if world.rank else 4})
        with pytest.raises(UserError, match=r"lr: 0\.5 on rank 0; 1\.5 on rank 1"):
            check_same(world, {"lr": np.float32(world.rank + 0.5)})

    threads.run(2, program)


def test_loaded_values_that_differ() -> None:
    """Replicas that start from different files would diverge silently."""

    def program(world: Communicator) -> None:
        model = mlp(MLPConfig(4, (5,), 2))
        model.init(world.rank)
        with pytest.raises(UserError, match=r"dense\.0\.linear\.weight: .*values \w{8}' on rank 0; .* on rank 1"):
            Trainer(model, world)

    threads.run(2, program, timeout=20)


def test_ranks_that_share_matrices_need_the_same_batch_too() -> None:
    """Their losses are not summed over that axis."""

    def program(world: Communicator) -> None:
        model = mlp(MLPConfig(4, (6,), 2))
        trainer = Trainer(model, world, optimizer=SGD, mesh=Mesh(world, tp=2))
        loader = ArrayLoader(np.ones((9, 4), np.float32), np.zeros(9, np.int64), batch=3, seed=1)
        with pytest.raises(UserError, match="batch: 0 on rank 0; 1 on rank 1"):
            trainer.step(loader.batch(world.rank))

    threads.run(2, program, timeout=20)


def test_a_sum_with_a_check() -> None:
    """A difference in any value, on any rank, is found, and the sum has all digits of a plain one."""

    def program(world: Communicator) -> float:
        for odd in range(3):
            given = {"seed": 1, "B": 5 if world.rank == odd else 4}
            with pytest.raises(UserError, match=rf"B: .*5 on rank {odd}"):
                sum_if_same(world, 1.0, given, TAG)
        return sum_if_same(world, 0.1 * world.rank, {"seed": 1, "B": 4}, TAG)

    assert threads.run(3, program, timeout=20) == [0.1 * 0 + 0.1 * 1 + 0.1 * 2] * 3
