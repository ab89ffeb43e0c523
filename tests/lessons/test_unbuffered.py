"""The communicator on which no message is put aside."""

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.lessons.unbuffered import Unbuffered
from minitrain.observe.ledger import Ledger

TAG = ("pair", "exchange")


def test_a_send_ends_when_it_was_received() -> None:
    def program(world: Communicator) -> tuple[bool, bool, float]:
        comm, x = Unbuffered(world), np.array([1.0 + world.rank])
        sent = comm.send(x, 1 - comm.rank, TAG)
        world.barrier()
        before = sent.done()
        world.barrier()  # both have asked
        comm.receive(x, 1 - comm.rank, TAG)
        world.barrier()
        assert comm.open == 1
        after = sent.done()
        sent.wait()
        assert comm.open == 0 and comm.received == 1
        return before, after, x.item()

    assert threads.run(2, program) == [(False, True, 2.0), (False, True, 1.0)]


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitrain.lessons.trials.WAIT", 0.1)

    def program(world: Communicator) -> None:
        comm, x = Unbuffered(world), np.zeros(1)
        comm.send(x, 1 - comm.rank, TAG).wait()
        comm.receive(x, 1 - comm.rank, TAG)

    with pytest.raises(RuntimeError, match=r"rank . of 2 raised TimeoutError: .*does not come to receive"):
        threads.run(2, program)


def test_habits() -> None:
    """An empty message counts for nothing."""

    def program(world: Communicator) -> dict:
        comm = Unbuffered(world)
        with Ledger().open():
            for size, to in ((0, 0), (2, 0), (1, 1)):
                if comm.rank == 2:
                    comm.send(np.zeros(size), to, TAG)
                elif comm.rank == to:
                    comm.receive(np.zeros(size), 2, TAG)
            return comm.habits()

    habits = threads.run(3, program)[2]
    assert list(habits.values()) == [[1], 2, [TAG], 3]
