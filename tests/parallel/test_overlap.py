"""Overlap: buckets are reduced while backward runs. Shown by the order of events, never by timing."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import ThreadCommunicator
from minitrain.errors import UserError
from minitrain.observe.ledger import Ledger
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.overlap import CommunicationThread
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.train.step import compute_gradients
from tests.equivalence.harness import BUCKET_MB, SEED, toy_batch, toy_gpt


def test_the_first_bucket_is_under_way_during_backward(
    thread: Callable[[], CommunicationThread] = CommunicationThread,
) -> None:
    """On each of two ranks, the first bucket's reduction begins before the first layer's backward and ends after it.

    Each waits for the other: an overlap that waits for its buckets, or holds them back until backward is over, times
    out.
    """
    for events in threads.run(2, lambda world: order_of_events(world, thread)):
        assert events[:2] == ["reduction begins", "first layer"]
        assert events.count("reduction ends") > 2


def test_a_closed_reducer_releases_its_communicators(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MPI has few communicators: some thousand trainers in one process would use them up."""
    made, freed = list[object](), list[object]()
    duplicate = ThreadCommunicator._duplicate

    def watched(world: ThreadCommunicator) -> ThreadCommunicator:
        made.append(new := duplicate(world))
        return new

    monkeypatch.setattr(ThreadCommunicator, "_duplicate", watched)
    monkeypatch.setattr(ThreadCommunicator, "_free", lambda self: freed.append(self))

    def program(world: Communicator) -> None:
        reducer = parallelize(toy_gpt(), Mesh(world, dp=2), Strategy(reduce="overlap", bucket_mb=BUCKET_MB))
        reducer.close()
        reducer.close()

    threads.run(2, program)
    assert len(made) == 2 and set(made) == set(freed) and len(freed) == 2


def order_of_events(world: Communicator, thread: Callable[[], CommunicationThread]) -> list[str]:
    """Return the order of events on this rank in one step of the toy model."""
    events: list[str] = []
    begun, first_layer = threading.Event(), threading.Event()

    def sync(reducer: Sequence[Array], group: Communicator) -> None:
        events.append("reduction begins")
        begun.set()
        assert first_layer.wait(2), "backward waits for the reduction"
        sync_gradients(reducer, group)
        events.append("reduction ends")

    model = toy_gpt()
    reducer = parallelize(
        model, Mesh(world, dp=world.size), Strategy(reduce="overlap", bucket_mb=BUCKET_MB), sync=sync, thread=thread
    )
    reducer.init(SEED)
    table = model.parameters()[0]  # the token table of the first unit, which backward reaches last
    after = table.on_ready

    def ready(p: object) -> None:
        assert begun.wait(2), "no reduction is under way"
        events.append("first layer")
        first_layer.set()
        assert after is not None
        after(p)

    table.on_ready = ready
    try:
        compute_gradients(model, toy_batch(0).part(world.rank, world.size), reducer)
    finally:
        reducer.close()
    return events


def test_traffic_is_counted_in_a_ledger_that_is_opened_later() -> None:
    def program(world: Communicator) -> int:
        model = toy_gpt()
        reducer = parallelize(model, Mesh(world, dp=2), Strategy(reduce="overlap", bucket_mb=BUCKET_MB))
        reducer.init(SEED)
        with Ledger().open() as ledger:
            compute_gradients(model, toy_batch(0).part(world.rank, 2), reducer)
        reducer.close()
        return sum(ledger.charged.values())

    assert min(threads.run(2, program)) > 1000


def test_an_mpi_without_threads_is_refused() -> None:
    world = threads.world_of_one()
    world.threads_allowed = False
    with pytest.raises(UserError, match="MPI_THREAD_MULTIPLE"):
        parallelize(toy_gpt(), Mesh(world), Strategy(reduce="overlap", bucket_mb=BUCKET_MB)).init(SEED)


def test_jobs_are_done_in_order_and_waited_for() -> None:
    thread, done = CommunicationThread(), list[int]()
    for i in range(20):
        thread.submit(lambda i=i: done.append(i))  # type: ignore[misc]
    thread.wait()
    assert done == list(range(20))
    thread.close()
    assert not thread.thread.is_alive()


def test_a_failure_ends_the_job_and_comes_back_to_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches the main thread and threading.excepthook, which `minitrain.launch()` sets to end all ranks."""
    hooked: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: hooked.append(args.exc_type.__name__))
    thread = CommunicationThread()
    thread.submit(lambda: 1 / 0)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="division by zero"):
        thread.wait()
    thread.thread.join()
    assert hooked == ["ZeroDivisionError"]


@pytest.mark.ranks(2)
def test_the_thread_talks_on_a_line_of_its_own(world: Communicator) -> None:
    """The main thread may communicate on the world while a bucket is in flight."""
    thread, own = CommunicationThread(), world.duplicate()
    x, y = np.full(1000, 1.0), np.full(1000, 10.0)
    thread.submit(lambda: own.all_reduce(x, ("dp", "test")))
    world.all_reduce(y, ("dp", "test"))
    thread.wait()
    thread.close()
    assert (x == 2).all() and (y == 20).all()


def test_jobs_have_numbers_and_one_may_be_left() -> None:
    """A caller that needs the result of job n does not wait for later jobs."""
    thread, go = CommunicationThread(), threading.Event()

    def later() -> None:
        go.wait(20)

    numbers = [thread.submit(job) for job in (lambda: None, lambda: None, later)]
    assert numbers == [1, 2, 3] and thread.submitted == 3
    thread.wait(thread.submitted - numbers[1])  # the third job is still running
    assert not go.is_set() and thread.pending == 1
    go.set()
    thread.wait()
    assert thread.pending == 0
    thread.close()
