"""The ledger's counts agree with tracemalloc, which measures independently, and with formulas."""

import gc
import math
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import TextLoader
from minitrain.errors import UserError
from minitrain.fused import linear
from minitrain.models import GPTConfig, gpt
from minitrain.observe.ledger import Ledger, current
from minitrain.optim import Adam
from minitrain.parallel.parallelize import parallelize
from minitrain.tensor import Tensor
from minitrain.train.step import train_step

TAG = ("dp", "test")


def gpt_steps(steps: int = 2) -> int:
    """Train a GPT. Return its number of parameters."""
    model = gpt(GPTConfig(vocabulary=64, context=64, layers=6, heads=4, width=128))
    reducer = parallelize(model, Mesh(world_of_one()))
    reducer.init(0)
    optimizer = Adam(reducer)
    loader = TextLoader(np.arange(2000) % 64, context=64, batch=16, seed=0)
    for number in range(steps):
        train_step(model, loader.batch(number), reducer, optimizer, lr=1e-3)
    return sum(math.prod(p.shape) for p in model.parameters())


def test_peak_of_a_gpt_step_agrees_with_tracemalloc() -> None:
    gpt_steps(1)  # allocates what is made once per process
    gc.collect()
    ledger = Ledger()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with ledger.open():
        gpt_steps()
    witness = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert abs(ledger.peak - witness) <= 0.03 * witness, (ledger.peak, witness, ledger.peak_parts)
    assert sum(ledger.peak_parts.values()) == ledger.peak
    assert ledger.peak_moment.startswith(("forward of ", "backward"))


def test_kinds_add_up_and_everything_is_freed() -> None:
    ledger = Ledger()
    with ledger.open():
        parameters = gpt_steps()
    assert ledger.peak_parts["parameters"] == 4 * parameters
    assert ledger.peak_parts["optimizer"] == 8 * parameters
    assert ledger.peak_parts.get("gradients", 0) < 2 * parameters, "the last step's are gone, this one's just begin"
    gc.collect()
    assert +ledger.live == {}, "nothing is alive after the model is gone"


def test_flops_of_a_linear_layer() -> None:
    """The forward takes 2 n i o, and so does each of the two gradients."""
    x, w = (Tensor(np.ones(shape), requires_grad=True) for shape in [(5, 3), (3, 7)])
    ledger = Ledger()
    with ledger.open():
        y = linear(x, w)
        assert ledger.flops == 2 * 5 * 3 * 7
        y.backward(np.ones((5, 7)))
    assert ledger.flops == 3 * 2 * 5 * 3 * 7


def test_views_are_counted_once_as_what_owns_them() -> None:
    ledger, array = Ledger(), np.ones((4, 8))
    for view in (array[1:], array.reshape(-1)[3:5], array.T):
        ledger.hold(view, "buffers")
    assert ledger.live == {"buffers": array.nbytes}
    ledger.hold(array, "activations")
    ledger.hold(array, "buffers")  # the more specific kind stays
    assert +ledger.live == {"activations": array.nbytes}
    del view
    del array
    assert +ledger.live == {} and ledger.peak == 4 * 8 * 8


def test_a_kind_that_does_not_exist() -> None:
    ledger = Ledger()
    with pytest.raises(UserError, match="kind is 'bufers'; allowed: 'buffers', "):
        ledger.hold(np.ones(3), "bufers")
    assert not ledger.live


def test_what_is_no_array_is_passed_over() -> None:
    ledger = Ledger()
    for thing in (None, 3.0, np.float32(1), np.ones(()), np.empty((0, 3)), "text"):
        ledger.hold(thing, "buffers")
    assert ledger.peak == 0


def test_an_id_that_is_used_again() -> None:
    """A new array may reuse the address of a dead one, but is a different array."""
    ledger = Ledger()
    for _ in range(100):
        ledger.hold(np.ones(1000), "buffers")
        assert ledger.live["buffers"] == 0
    assert ledger.peak == 8000


def test_each_thread_has_its_own() -> None:
    seen: list[Any] = []
    with Ledger().open():
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [None] and current() is None


def all_counters(world: Communicator, length: int, dtype: Any = np.float64) -> list[Ledger]:
    """Return the ledgers of an all-reduce, a reduce-scatter with all-gather, and a broadcast."""
    ledgers = [Ledger(), Ledger(), Ledger()]
    with ledgers[0].open():
        world.all_reduce(np.ones(length, dtype), TAG)
    with ledgers[1].open():
        x = np.ones(length, dtype)
        world.reduce_scatter(x, TAG)
        world.all_gather(x, TAG)
    with ledgers[2].open():
        world.broadcast(np.ones(length, dtype), world.size - 1, TAG)
    return ledgers


@pytest.mark.parametrize("length", [1, 2, 12, 13, 1000])
@pytest.mark.ranks(2, 3, 4)
def test_bytes_of_the_ring(world: Communicator, length: int) -> None:
    """2 (N-1) M in total, even if N does not divide M; MPI's own collectives are charged the same, rank by rank."""
    N, M = world.size, length * 8
    ring, charged = all_counters(RingCommunicator(world), length), all_counters(world, length)
    for own, other, total in zip(ring, charged, [2 * (N - 1) * M, 2 * (N - 1) * M, (N - 1) * M], strict=True):
        assert sum(world.gather_objects(own.bytes[TAG])) == total
        assert own.bytes[TAG] == other.charged[TAG]
        assert not own.charged and not other.bytes and not other.messages
    assert ring[0].messages[TAG] == ring[1].messages[TAG] == 2 * (N - 1)


def test_half_precision_is_reduced_in_four_bytes() -> None:
    """Sums travel as float32, since rounding each would lose digits; an all-gather sends two bytes per element."""

    def program(world: Communicator) -> list[int]:
        return [ledger.bytes[TAG] for ledger in all_counters(RingCommunicator(world), 12, np.float16)[:2]]

    for all_reduced, scattered_and_gathered in threads.run(3, program):
        assert all_reduced == 2 * 2 * 4 * 4
        assert scattered_and_gathered == 2 * 4 * 4 + 2 * 4 * 2
