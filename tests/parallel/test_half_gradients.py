"""16-bit gradient communication: rounded once, summed in float32, half the bytes."""

from functools import partial

import numpy as np
import pytest

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.parallel.data_parallel import TAG
from minitrain.parallel.half_gradients import reduce_scatter_in, sync_in
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.zero import GRADIENTS
from minitrain.precision import DTYPES
from minitrain.sharding import shard_of
from tests.strategies import named


def parts(n: int, ranks: int) -> list[np.ndarray]:
    return [np.random.default_rng(rank).normal(size=n).astype(np.float32) for rank in range(ranks)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [10, 2])
@pytest.mark.ranks(3, full=(1, 2))
def test_the_sum_of_the_rounded(world: Communicator, dtype: str, n: int) -> None:
    """The sum is computed in float32 and rounded once more for the way back, with the same bits on every rank, even for
    2 numbers on 3 ranks. A single rank sends nothing and rounds nothing."""
    half, every = DTYPES[dtype], parts(n, world.size)
    total = np.zeros(n, np.float32)
    for part in every:
        total += part.astype(half).astype(np.float32) if world.size > 1 else part
    x = every[world.rank].copy()
    mine = reduce_scatter_in(x, world, TAG, half)
    assert np.array_equal(mine, total[shard_of(n, world.size, world.rank)])
    x = every[world.rank].copy()
    sync_in([x, np.empty(0, np.float32)], world, half)
    assert np.array_equal(x, total.astype(half).astype(np.float32) if world.size > 1 else every[0])


@pytest.mark.ranks(2, 3)
def test_the_rounded_copy_is_held_while_it_is_sent(world: Communicator) -> None:
    x = np.ones(1000, np.float32)
    with Ledger(history=True).open() as ledger:
        reduce_scatter_in(x, world, TAG, np.float16)
    own = shard_of(1000, world.size, world.rank)
    held = 2 * 1000 + (4 + 2) * (own.stop - own.start)  # plus the own shard's sum and its receive buffer
    assert ledger.history is not None and max(live.get("buffers", 0) for live in ledger.history) == held
    assert not ledger.live["buffers"]


@pytest.mark.ranks(3)
def test_ones_are_not_lost(world: Communicator) -> None:
    """2048 + 1 is 2048 in float16: a float16 sum would lose both ones."""
    for dtype in (np.float32, np.float16):
        x = np.array([2048.0 if world.rank == 0 else 1.0] * 4, dtype)
        sync_in([x], world, np.float16)
        assert (x == 2050).all()


@pytest.mark.ranks(3)
def test_what_overflows_is_infinite_everywhere(world: Communicator) -> None:
    x = np.array([1e5 if world.rank == 1 else 0.0] * 3, np.float32)
    with np.errstate(over="ignore"):
        sync_in([x], world, np.float16)
    assert np.isinf(x).all()


@pytest.mark.parametrize("how", ["naive", "bucketed", "overlap", "zero1", "zero2", "zero3"])
@pytest.mark.ranks(3)
def test_half_the_bytes(world: Communicator, how: str) -> None:
    """Every strategy sends half the gradient bytes. Each passes the half-precision collectives through its own hook."""
    sent = []
    for grad_dtype in ("full", "fp16"):
        model = mlp(MLPConfig(inputs=5, hidden=(6, 4), classes=2))
        reducer = parallelize(model, Mesh(world, dp=world.size), named(how, grad_dtype=grad_dtype))
        reducer.init(1)
        with Ledger().open() as ledger:
            for p in model.parameters():
                p.accumulate(partial(_given, p.shape), np.empty(0))
            reducer.end_backward()
            reducer.synchronize()
        reducer.close()
        tag = GRADIENTS if how.startswith("zero") else TAG
        sent.append(ledger.charged[tag] + ledger.bytes[tag])
        assert all(np.allclose(owned.grad, world.size) for owned in reducer.owned())
    assert 0 < 2 * sent[1] == sent[0]


def _given(shape: tuple[int, ...], g: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a gradient of ones."""
    ones = np.ones(shape, np.float32)
    if out is None:
        return ones
    out[...] = ones
    return out


def test_one_rank_rounds_nothing() -> None:
    """Nothing is sent, so nothing need fit into 16 bits."""
    gradient = np.random.default_rng(1).standard_normal(7).astype(np.float32)
    given = gradient.copy()
    sync_in([gradient], world_of_one(), DTYPES["float16"])
    assert (gradient == given).all()
