"""A pipeline matches the run on one process under every schedule; memory, sends, and what is refused."""

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import rng
from minitrain.autograd import backward, no_grad
from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import ThreadCommunicator, world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Module
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, clip_grad_norm
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.pipeline import Pipeline, Schedule
from minitrain.parallel.pipeline_schedules import SCHEDULES, Do, all_ranks, default_chunks, layout_of
from minitrain.parallel.pipeline_simulation import check
from minitrain.parallel.recompute import Segment
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.tensor import Tensor
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients
from tests.equivalence.harness import BUCKET_MB, SEED, STEPS, Run, Tensors, toy_batch, toy_gpt
from tests.parallel.test_mesh import BOUND, first_difference, other_number, other_tensors
from tests.tiers import full

LAYERS, MICROS = 6, 4  # 8 units; the 7 samples make micro-batches of 2, 2, 2 and 1
Part = Callable[[Batch, int, int], Batch]


# Equal to the serial run ------------------------------------------------------------------------------------


def train(
    world: Communicator,
    schedule: str | Schedule = "1f1b",
    tied: bool = True,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    part: Part = Batch.part,
) -> Run:
    """Train for several steps and record everything. Gradients are recorded before clipping."""
    run, model, mesh = Run(), toy_gpt(tied=tied, layers=LAYERS), Mesh(world, pp=world.size)
    reducer = parallelize(model, mesh, Strategy(bucket_mb=BUCKET_MB, schedule=schedule), reducers=reducers)
    reducer.init(SEED)
    optimizer = SGD(reducer, momentum=0.9)
    for number in range(STEPS):
        loss = compute_gradients(model, part(toy_batch(number), 0, 1), reducer, MICROS)
        run.losses.append(sum(world.gather_objects(loss)))
        run.gradients.append(gather(model, world, "grad", reducer))
        run.norms.append(clip_grad_norm(reducer, 0.5))
        optimizer.step(0.05)
        reducer.gather_parameters()
    run.parameters = gather(model, world, "data", reducer)
    run.held = {p.placement.path: p.data.copy() for p in model.parameters()}
    reducer.close()
    return run


@cache
def serial(tied: bool) -> Run:
    return train(world_of_one(), tied=tied)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pipeline_is_the_serial_run(
    schedule: str | Schedule,
    tied: bool,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    part: Part = Batch.part,
    comm: Callable[[Any], Communicator] = RingCommunicator,
    patience: float = 60,
) -> None:
    """Loss, norm, every gradient and parameter match the run on one process on every rank. Tied weights stay equal."""
    ranks = 2 if schedule in ("interleaved", "dualpipe") else 3
    try:
        runs = threads.run(ranks, lambda world: train(comm(world), schedule, tied, reducers, part), patience)
    except TimeoutError as error:
        raise AssertionError(f"the ranks wait for each other: {error}") from error
    for rank, run in enumerate(runs):
        found = first_difference(run, serial(tied))
        assert not found, f"not as on one process: rank {rank}, {found}"
    shared = set(runs[0].held) & set(runs[-1].held)
    everything = {path for run in runs for path in run.held}
    tied_to = {"embed.tokens.weight"} if tied else set()
    assert shared == {"zb-v": set(), "dualpipe": everything}.get(str(schedule), tied_to)  # zb-v: both ends on rank 0
    torn = [path for path in shared if runs[0].held[path].tobytes() != runs[-1].held[path].tobytes()]
    assert not torn, f"copies differ: {torn}"


def test_a_schedule_of_ones_own() -> None:
    """A custom schedule is a function like those in SCHEDULES: here, all forwards and then all backwards, in order."""

    def first_in_first_out(rank: int, stages: int, m: int, chunks: int) -> list[Do]:
        return [Do("F", i, 0) for i in range(m)] + [Do("B", i, 0) for i in range(m)]

    for run in threads.run(2, lambda world: train(world, first_in_first_out)):
        assert not first_difference(run, serial(True))


# Sends that wait for their receiver -------------------------------------------------------------------------


class Synchronous(ThreadCommunicator):
    """A send completes only when the receiver acknowledges the message."""

    def __init__(self, world: Any) -> None:
        super().__init__(world.group, world.rank)

    def _send(self, x: Array, to: int, number: int) -> Any:
        super()._send(x, to, 2 * number)
        return Handle(partial(super()._receive, np.empty(1), to, 2 * number + 1))

    def _receive(self, x: Array, source: int, number: int) -> None:
        super()._receive(x, source, 2 * number)
        super()._send(np.empty(1), source, 2 * number + 1)


class Blocking(Synchronous):
    """A rank does not continue until its message has been received."""

    def _send(self, x: Array, to: int, number: int) -> Any:
        handle = super()._send(x, to, number)
        handle.wait()
        return Handle(lambda: None)


class SynchronousMPI(RingCommunicator):
    """MPI's own synchronous send."""

    def _send(self, x: Array, to: int, number: int) -> Any:
        world: Any = self.inner
        return Handle(world.comm.Issend(octets(x), to, number).Wait)


class BlockingMPI(SynchronousMPI):
    """MPI's synchronous send, waited for at once."""

    def _send(self, x: Array, to: int, number: int) -> Any:
        super()._send(x, to, number).wait()
        return Handle(lambda: None)


def octets(x: Array) -> Array:
    """View a message as bytes, which the receiver asks for."""
    return x.reshape(-1).view(np.uint8)


class Handle:
    def __init__(self, wait: Callable[[], Any]) -> None:
        self.wait = wait

    def done(self) -> bool:
        """Always false: only `wait` asks the receiver."""
        return False


def labelled(samples: int) -> Batch:
    """Return samples for an MLP whose micro-batches of n samples send messages of n KiB."""
    inputs = rng.normal(rng.key(SEED, "inputs"), (samples, 64))
    labels = rng.integers(rng.key(SEED, "labels"), samples, 10)
    return Batch(inputs, labels, Where(SEED, 0, samples, 1, slice(0, samples), slice(0, 1)))


def one_step(world: Communicator, schedule: str, samples: int) -> tuple[float, Tensors]:
    """Return the loss and gradients of an MLP of 8 units, 128 wide."""
    model = mlp(MLPConfig(hidden=(128,) * 7, dtype="float64"))
    mesh = Mesh(world, pp=world.size)
    reducer = parallelize(model, mesh, Strategy(bucket_mb=0.2, schedule=schedule))
    reducer.init(SEED)
    loss = compute_gradients(model, labelled(samples), reducer, MICROS)
    return sum(world.gather_objects(loss)), gather(model, world, "grad", reducer)


@cache
def one_step_alone(samples: int) -> tuple[float, Tensors]:
    return one_step(world_of_one(), "1f1b", samples)


def wrong(step: tuple[float, Tensors], samples: int) -> list[str]:
    true = one_step_alone(samples)
    return [*other_number("loss", step[0], true[0]), *other_tensors("gradients", step[1], true[1])]


# With blocking sends, neighbors must never send to each other at the same time.
SENDS = [(name, False) for name in SCHEDULES if name != "dualpipe"] + [("naive", True), ("gpipe", True)]
KIB = [full(1), 1024]  # message size in KiB


@pytest.mark.parametrize("kib", KIB)
@pytest.mark.parametrize(("schedule", "at_once"), [*SENDS, ("dualpipe", False)])
def test_sends_that_wait_for_their_receiver(schedule: str, at_once: bool, kib: int) -> None:
    comm = Blocking if at_once else Synchronous
    ranks = 2 if schedule == "dualpipe" else 4
    for step in threads.run(ranks, lambda world: one_step(comm(world), schedule, MICROS * kib), 30):
        assert not wrong(step, MICROS * kib)


@pytest.mark.parametrize("kib", KIB)
@pytest.mark.parametrize(("schedule", "at_once"), SENDS)
@pytest.mark.ranks(4, limit=30)
def test_synchronous_sends_of_mpi(world: Communicator, schedule: str, at_once: bool, kib: int) -> None:
    comm = (BlockingMPI if at_once else SynchronousMPI)(world)
    assert not wrong(one_step(comm, schedule, MICROS * kib), MICROS * kib)


@pytest.mark.parametrize("schedule", [s if s in ("naive", "gpipe", "1f1b") else full(s) for s in SCHEDULES])
def test_blocking_sends_hang_where_the_checker_says_so(schedule: str) -> None:
    """The execution model in pipeline_simulation.py predicts what actually happens."""
    ranks = 2 if schedule == "dualpipe" else 4
    lists = all_ranks(schedule, ranks, MICROS)
    if schedule in ("naive", "gpipe"):
        check(lists, MICROS, sends="blocking")
        return
    with pytest.raises(UserError, match="wait for each other"):
        check(lists, MICROS, default_chunks(schedule), sends="blocking", shape=layout_of(schedule, 4, 1).shape)
    with pytest.raises((TimeoutError, RuntimeError), match=r"had not ended|RankFailed"):
        threads.run(ranks, lambda world: one_step(Blocking(world), schedule, MICROS), 1)


# Activations in flight --------------------------------------------------------------------------------------


def peak_activations(world: Communicator, schedule: str | Schedule) -> int:
    """Return the peak bytes of live activations in a step of 8 equal micro-batches."""
    ledger, model = Ledger(history=True), toy_gpt(layers=LAYERS, dropout=0)
    reducer = parallelize(model, Mesh(world, pp=world.size), Strategy(bucket_mb=BUCKET_MB, schedule=schedule))
    reducer.init(SEED)
    with ledger.open():
        compute_gradients(model, toy_batch(0, samples=16), reducer, accumulate=8)
    assert ledger.history is not None
    return max(live.get("activations", 0) for live in ledger.history)


@cache
def peaks(schedule: str | Schedule) -> list[int]:
    return threads.run(4, lambda world: peak_activations(world, schedule), 60)


@pytest.mark.parametrize(("schedule", "counts"), [("gpipe", [8, 8, 8, 8]), ("1f1b", [4, 3, 2, 1])])
def test_activations_in_flight(schedule: str | Schedule, counts: list[int]) -> None:
    """In units of the naive schedule, which has one micro-batch in flight. Exact where computing a gradient needs no
    more memory than it frees, which holds everywhere except in the embedding."""
    found = [peak / one for peak, one in zip(peaks(schedule), peaks("naive"), strict=True)]
    assert [round(count) for count in found] == counts, f"activations in flight {found}, not {counts}"
    assert found[1:] == counts[1:]


def test_zero_bubble_without_idle_time_holds_almost_twice_as_much() -> None:
    """zb-h2 has 7 micro-batches in flight on every rank, zb-h1 has 4. (The planner's tests count every byte.)"""
    for h2, h1, one in zip(peaks("zb-h2"), peaks("zb-h1"), peaks("naive"), strict=True):
        assert h1 < h2 < 7 * one


def test_zero_bubble_holds_as_many_as_1f1b_holds_anywhere() -> None:
    """I frees part of each micro-batch, so the total is less than four whole ones."""
    for rank, (peak, one_f, one) in enumerate(zip(peaks("zb-h1"), peaks("1f1b"), peaks("naive"), strict=True)):
        assert one_f <= peak < 4 * one
        assert (peak == one_f) == (rank == 0)


# Evaluation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "ranks", "last"), [("1f1b", 3, 2), ("interleaved", 2, 1), ("zb-v", 3, 0), ("dualpipe", 4, 3)]
)
def test_evaluation(schedule: str, ranks: int, last: int) -> None:
    """Forward only: the last stage has the loss and the others 0. Without labels every rank gets the logits."""
    batch = toy_batch(0)
    questions = replace(batch, labels=None)

    def program(world: Communicator) -> tuple[float, Array]:
        model = toy_gpt(layers=LAYERS)
        parallelize(model, Mesh(world, pp=world.size), Strategy(schedule=schedule)).init(SEED)
        with no_grad():
            return model(batch).item(), model(questions).data

    model = toy_gpt(layers=LAYERS)
    model.init(SEED)
    results = threads.run(ranks, program, 30)
    losses = [loss for loss, _ in results]
    assert losses.pop(last) == pytest.approx(model(batch).item(), rel=BOUND)
    assert losses == [0] * (ranks - 1)
    for _, logits in results:
        np.testing.assert_allclose(logits, model(questions).data, rtol=0, atol=BOUND)


# Refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 1}, "pp=4 x chunks=1 makes 4 stages of 3 units; allowed: up to 3"),
        ({"schedule": "interleaved", "chunks": 3}, "pp=4 x chunks=3 makes 12 stages of 8 units; allowed: up to 8"),
        ({"chunks": 2}, "chunks=2 with schedule='1f1b' and pp=4: several chunks per rank go with interleaved"),
        ({"schedule": "interleaved", "chunks": 1}, "chunks=1 with schedule='interleaved' and pp=4: several chunks"),
        (
            {"schedule": "zb-v", "chunks": 3},
            "chunks=3 with schedule='zb-v' and pp=4: several chunks per rank go with interleaved",
        ),
        ({"schedule": "2f2b"}, "schedule is '2f2b'; allowed: 'naive', 'gpipe', '1f1b', 'interleaved', 'zb-h1'"),
        ({"zero": 2}, "zero=2 with pp=4: ZeRO-2 and -3 reduce (ZeRO-3 also gathers) around"),
        ({"zero": 3}, "zero=3 with pp=4: ZeRO-2 and -3 reduce (ZeRO-3 also gathers) around"),
        ({"schedule": "dualpipe"}, "3 micro-batches on 4 stages: dualpipe needs an even number of both, and 8"),
        ({"schedule": "interleaved"}, "3 micro-batches on 4 stages: the interleaved schedule needs"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """Refused on every rank before anything is sent, so no rank waits for one that has failed."""

    def program(world: Communicator) -> str:
        model = toy_gpt(layers=options.get("layers", LAYERS))
        strategy = Strategy(**{name: value for name, value in options.items() if name != "layers"})
        with pytest.raises(UserError) as caught:
            reducer = parallelize(model, Mesh(world, pp=4), strategy)
            reducer.init(SEED)
            compute_gradients(model, toy_batch(0), reducer, accumulate=3)
        return str(caught.value)

    for said in threads.run(4, program, 30):
        assert said.startswith(message)


class Growing(Module):
    """A unit that returns more rows from batch to batch."""

    def __init__(self) -> None:
        self.path, self.batches = "growing", 0

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        self.batches += 1
        return F.concatenate([x] * self.batches)


def test_what_is_sent_keeps_its_shape() -> None:
    """The next stage receives into an array of the first batch's shape."""

    def program(world: Communicator) -> None:
        first, *rest = mlp(MLPConfig(5, (6, 4), 3, "float64")).units
        model = Model([first, Growing(), *rest])
        reducer = parallelize(model, Mesh(world, pp=2))
        reducer.init(SEED)
        data = ArrayLoader(np.ones((7, 5)), np.zeros(7, int), 7, seed=SEED)
        for number in range(2):
            compute_gradients(model, data.batch(number), reducer)

    said = r"growing outputs \(\(14, 6\), .*, but for an earlier batch .* was \(\(7, 6\), .*; the .* must not change"
    with pytest.raises(RuntimeError, match=rf"rank 0 of 2 raised UserError: {said}"):
        threads.run(2, program, timeout=20)


def test_the_units_of_other_stages_are_released() -> None:
    """A rank keeps its own units and those next to them, whose dtypes it asks for: the rest would cost their memory."""

    def program(world: Communicator) -> None:
        model = toy_gpt(layers=LAYERS)
        model.init(SEED)
        units = [weakref.ref(unit) for unit in model.units]
        parallelize(model, Mesh(world, pp=2))
        gc.collect()
        assert isinstance(model, Pipeline)
        kept = {*model.units, *chain(*model.borders)}
        assert {unit() for unit in units} - {None} == kept and len(kept) == 5

    threads.run(2, program)


def test_a_segment_puts_off_the_work_on_its_weights() -> None:
    """With recompute under zb-h1, weight-gradient products are still computed in W."""
    unit = gpt(GPTConfig(11, 5, layers=1, heads=3, width=9, dtype="float64")).units[1]
    unit.init(1)
    for segment in (Segment([unit], replay=True), Segment([unit], replay=False)):
        later: list[Callable[[], None]] = []
        ids = np.zeros((2, 5), np.int64)
        batch = Batch(ids, ids, Where(SEED, 0, 2, 5, slice(0, 2), slice(0, 5)))
        x = Tensor(np.ones((2, 5, 9)), requires_grad=True)
        with Ledger().open() as ledger:
            backward([segment(x, batch)], [np.ones((2, 5, 9))], later.append)
            before = ledger.flops
            assert x.grad is not None and all(p.grad is None for p in unit.parameters())
            for work in later:
                work()
            assert ledger.flops - before >= 2 * 10 * 12 * 9 * 9, "4 matrices of 12 D^2 numbers, for 10 tokens"
        assert all(p.grad is not None for p in unit.parameters())
        for p in unit.parameters():
            p.grad = None


@pytest.mark.ranks(2, limit=60)
def test_memory_does_not_grow_with_the_micro_batches(world: Communicator) -> None:
    """1F1B frees what has been sent: peak memory is the same for 8 and 32 micro-batches of one window each."""
    peaks = []
    for m in (8, 32):
        model = gpt(GPTConfig(11, 64, layers=2, heads=2, width=32, dtype="float64"))
        reducer = parallelize(model, Mesh(world, pp=2))
        reducer.init(SEED)
        ids = rng.integers(rng.key(SEED, "long"), m * 65, 11).reshape(m, 65)
        batch = Batch(ids[:, :-1], ids[:, 1:], Where(SEED, 0, m, 64, slice(0, m), slice(0, 64)))
        with Ledger(history=True).open() as ledger:
            compute_gradients(model, batch, reducer, accumulate=m)
        assert ledger.history is not None
        peaks.append(max(live.get("buffers", 0) for live in ledger.history))
    BTD = 64 * 32 * 8
    assert peaks[1] <= peaks[0] + 12 * BTD, "a message or two may be late, but not 24 of them"


def test_a_header_is_kept_until_it_has_left() -> None:
    """MPI reads the array of a message until its handle is done; then the handle, which keeps it alive, is dropped."""
    done: set[int] = set()
    sent: list[SimpleNamespace] = []

    def send(x: Any, *_: Any) -> SimpleNamespace:
        number = len(sent)
        sent.append(SimpleNamespace(done=lambda: number in done))
        return sent[-1]

    stage = SimpleNamespace(
        headers={}, saying=[], group=SimpleNamespace(send=send), after=lambda c: (1, c), kind=lambda *key: key
    )
    say = lambda c: Pipeline.notify(cast(Any, stage), c, 0, cast(Any, "batch"), ((2, 3), np.dtype("float32")))
    say(0)
    say(1)
    assert stage.saying == sent[:2], "neither has left"
    done.add(0)
    say(2)
    assert stage.saying == sent[1:], "the first has left"
    say(2)
    assert len(sent) == 3, "the same header is sent once"
