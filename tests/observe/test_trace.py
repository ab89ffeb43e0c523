"""Traces of real runs, read as a viewer reads them: valid, complete, and without influence on the run."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.errors import UserError
from minitrain.observe import recorder, trace
from minitrain.observe.clock import Clock, Stamps
from minitrain.observe.ledger import Ledger
from minitrain.observe.observer import observing
from minitrain.parallel.pipeline_schedules import SCHEDULES, Do
from minitrain.parallel.strategy import Strategy
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import toy_batch, toy_gpt
from tests.observe.trace_validator import faults, nanoseconds

Tag = tuple[str, str]
BEFORE, RECORDED = 2, 2  # updates
LIMIT: dict[str, Any] = {"timeout": 60, "wait": 20}


@dataclass(frozen=True)
class Run:
    """A run to trace."""

    axes: dict[str, int]
    strategy: Strategy = field(default_factory=Strategy)
    accumulate: int = 1
    ring: bool = False

    @property
    def ranks(self) -> int:
        return int(np.prod(list(self.axes.values()), dtype=int))

    def trainer(self, world: Communicator) -> Trainer:
        world = RingCommunicator(world) if self.ring else world
        mesh, model = Mesh(world, **self.axes), toy_gpt(heads=4)
        return Trainer(
            model, world, schedule=0.01, clip=1.0, mesh=mesh, strategy=self.strategy, accumulate=self.accumulate
        )  # fmt: skip


RUNS = {
    "serial": Run({}),
    "serial, recomputed": Run({}, Strategy(recompute=1)),
    "dp 2 pp 2 zero 1": Run({"dp": 2, "pp": 2}, Strategy(zero=1), 3),
    "pp 2, zb-h1": Run({"pp": 2}, Strategy(schedule="zb-h1"), 4),
    "pp 2, interleaved": Run({"pp": 2}, Strategy(schedule="interleaved", chunks=2), 2),
    "dp 2, overlap": Run({"dp": 2}, Strategy(reduce="overlap", bucket_mb=0.001)),
    "zero 3, prefetch": Run({"dp": 3}, Strategy(zero=3, prefetch=True), 2),
    "tp 2": Run({"tp": 2}),
    "ring": Run({"dp": 3}, Strategy(bucket_mb=0.001), ring=True),
    "ring of a pipeline": Run({"dp": 2, "pp": 2}, Strategy(zero=1), 2, ring=True),
}
every_run = pytest.mark.parametrize("name", RUNS)


@dataclass
class Made:
    """A traced run. losses and ledgers: of each rank."""

    trace: dict[str, Any]
    losses: list[list[float]]
    ledgers: list[Ledger]
    text: str

    def spans(self, rank: int, lane: str) -> list[dict[str, Any]]:
        """Return the spans of a lane, in order."""
        of_rank = [event for event in self.trace["traceEvents"] if event["pid"] == rank]
        tids = {event["args"]["name"]: event["tid"] for event in of_rank if event["name"] == "thread_name"}
        return [event for event in of_rank if event["ph"] == "X" and event["tid"] == tids.get(lane)]

    def communications(self, rank: int) -> list[dict[str, Any]]:
        """Return the collectives and messages of a rank."""
        events = self.trace["traceEvents"]
        return [e for e in events if e["pid"] == rank and e.get("cat") in ("collective", "send", "receive")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from the name of a run to what was made of it, once."""
    known: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in known:
            known[name] = traced(RUNS[name], tmp_path_factory.mktemp("trace"))
        return known[name]

    return get


def traced(run: Run, folder: Path) -> Made:
    """Run some updates, then record some in a ledger of the test's own."""

    def program(world: Communicator) -> tuple[list[float], Ledger, str]:
        trainer = run.trainer(world)
        losses = [trainer.step(toy_batch(i)).loss for i in range(BEFORE)]
        with Ledger().open() as ledger, trace.recording(world, folder) as written:
            losses += [trainer.step(toy_batch(i)).loss for i in range(BEFORE, BEFORE + RECORDED)]
        assert recorder.current() is None
        trainer.close()
        return losses, ledger, written.text

    found = threads.run(run.ranks, program, **LIMIT)
    content = json.loads((folder / trace.NAME).read_text("utf-8"))
    return Made(content, [losses for losses, *_ in found], [ledger for _, ledger, _ in found], found[0][2])


def untraced(run: Run) -> list[float]:
    """Return the losses of the same updates on rank 0."""

    def program(world: Communicator) -> list[float]:
        trainer = run.trainer(world)
        losses = [trainer.step(toy_batch(i)).loss for i in range(BEFORE + RECORDED)]
        trainer.close()
        return losses

    return threads.run(run.ranks, program, **LIMIT)[0]


@every_run
def test_a_real_trace_is_valid(name: str, made: Any) -> None:
    assert faults(made(name).trace, RUNS[name].ranks) == []


@every_run
def test_tracing_changes_no_bit_of_the_losses(name: str, made: Any) -> None:
    plain = untraced(RUNS[name])
    assert all(losses == plain for losses in made(name).losses)


@every_run
def test_bytes_are_those_of_the_ledger(name: str, made: Any) -> None:
    """Messages rank by rank; for collectives inside the communicator, a ring's bytes over all of its ranks."""
    it, sends = made(name), Counter[tuple[int, str, str]]()
    charged: defaultdict[Tag, Fraction] = defaultdict(Fraction)
    for rank in range(RUNS[name].ranks):
        for span in it.communications(rank):
            args = span["args"]
            n = len(args["ranks"])
            assert args["ranks"][args["ranks"].index(rank)] == rank
            if span["cat"] == "send":
                sends[rank, args["axis"], args["purpose"]] += args["bytes"]
            elif span["cat"] == "collective" and not RUNS[name].ring:
                passes = 2 if span["name"].startswith("all_reduce") else 1
                charged[args["axis"], args["purpose"]] += Fraction(passes * (n - 1) * args["bytes"], n)
    counted = {(rank, *tag): size for rank, ledger in enumerate(it.ledgers) for tag, size in ledger.bytes.items()}
    assert sends == counted
    assert charged == sum((ledger.charged for ledger in it.ledgers), Counter())
    assert RUNS[name].ranks == 1 or counted or charged


@every_run
def test_the_main_thread_computes_or_communicates(name: str, made: Any) -> None:
    """No operation overlaps a communication of the main thread, and the update is around both."""
    it = made(name)
    for rank in range(RUNS[name].ranks):
        compute, talk = it.spans(rank, "compute"), it.spans(rank, "communication")
        updates = [interval(span) for span in compute if span["cat"] == "update"]
        work = [interval(span) for span in compute if span["cat"] == "operation"]
        assert len(updates) == RECORDED and work
        talks = [interval(span) for span in talk]
        assert all(end <= lo or hi <= begin for begin, end in work for lo, hi in talks)
        assert all(any(lo <= begin and end <= hi for lo, hi in updates) for begin, end in work + talks)


def interval(span: dict[str, Any]) -> tuple[int, int]:
    return nanoseconds(span["ts"]), nanoseconds(span["ts"]) + nanoseconds(span["dur"])


@pytest.mark.parametrize("name", [name for name in RUNS if "pp" in RUNS[name].axes])
def test_instructions_are_those_of_the_schedule(name: str, made: Any) -> None:
    run = RUNS[name]
    for rank in range(run.ranks):
        spans = [span for span in made(name).spans(rank, "compute") if span["cat"] in ("F", "B", "I", "W")]
        found = [Do(span["cat"], span["args"]["micro"], span["args"]["chunk"]) for span in spans]
        listed = SCHEDULES[str(run.strategy.schedule)](rank % 2, 2, run.accumulate, run.strategy.v)
        assert found == RECORDED * list(listed)
        assert [span["name"] for span in spans] == [f"{do.kind} {do.micro}" for do in found]


def test_operations_are_in_their_parents(made: Any) -> None:
    """The forward of a block is in the forward, its operations in the block; gradients of weights are told apart."""
    spans = made("serial").spans(0, "compute")
    inside = lambda name: [s["name"] for s in spans for p in spans if p["name"] == name and within(s, p) and s is not p]
    forward = RECORDED * ["layer_norm", "linear", "causal_attention", "linear", "layer_norm", "linear", "linear"]
    assert [name for name in inside("blocks.0") if name in forward] == forward
    assert {"embedding", "blocks.0", "blocks.1", "head", "linear"} <= set(inside("forward 0"))
    assert {"linear backward", "linear weight gradient", "causal_attention backward"} <= set(inside("backward 0"))
    assert {"forward 0", "backward 0", "norm", "optimizer"} <= set(inside("update 3"))


def within(span: dict[str, Any], parent: dict[str, Any]) -> bool:
    (begin, end), (lo, hi) = interval(span), interval(parent)
    return lo <= begin and end <= hi


def test_what_is_recomputed_is_marked(made: Any) -> None:
    spans = made("serial, recomputed").spans(0, "compute")
    again = [span for span in spans if span["cat"] == "recompute"]
    units = ["head", "blocks.1", "blocks.0", "embed"]
    assert [span["name"] for span in again] == RECORDED * [f"recompute {unit}" for unit in units]
    backwards = [span for span in spans if span["cat"] == "backward"]
    assert all(any(within(span, parent) for parent in backwards) for span in again)


def test_communication_threads_have_lanes_and_name_their_buckets(made: Any) -> None:
    for name, lane, operation in (
        ("dp 2, overlap", "reduce", "all_reduce gradients"),
        ("zero 3, prefetch", "prefetch", "all_gather parameters"),
    ):
        for rank in range(RUNS[name].ranks):
            spans = [span for span in made(name).spans(rank, lane) if span["cat"] == "collective"]
            assert {span["name"] for span in spans} == {operation} and len(spans) >= RECORDED
            assert all(span["args"]["of"] for span in spans)
            waits = [span["name"] for span in made(name).spans(rank, "communication") if span["cat"] == "wait"]
            assert set(waits) <= {"wait for reduce", "wait for prefetch"}
    buckets = {span["args"]["of"] for span in made("dp 2, overlap").spans(0, "reduce") if "of" in span["args"]}
    assert any("head" in bucket for bucket in buckets) and len(buckets) > 2


def test_a_rings_messages_are_inside_its_collective(made: Any) -> None:
    """An all-reduce on 3 ranks is 4 messages out and 4 in."""
    spans = made("ring").spans(1, "communication")
    collectives = [span for span in spans if span["cat"] == "collective"]
    assert collectives
    for whole in collectives:
        inner = [s for s in spans if s["cat"] in ("send", "receive") and within(s, whole)]
        assert Counter(s["cat"] for s in inner) == {"send": 4, "receive": 4}
        assert {(s["args"]["from"], s["args"]["to"]) for s in inner} == {(1, 2), (0, 1)}


def test_memory_is_as_if_counted_from_the_beginning(tmp_path: Path) -> None:
    """A recording that opens between updates knows the parameters, gradients and state that are alive then."""
    run = RUNS["zero 3, prefetch"]

    def program(world: Communicator) -> dict[str, int]:
        with Ledger().open() as ledger:
            trainer = run.trainer(world)
            for i in range(BEFORE):
                trainer.step(toy_batch(i))
        live = dict(ledger.live)
        with trace.recording(world, tmp_path):
            trainer.step(toy_batch(BEFORE))
        trainer.close()
        return live

    known = threads.run(run.ranks, program, **LIMIT)
    events = json.loads((tmp_path / trace.NAME).read_text("utf-8"))["traceEvents"]
    for rank, live in enumerate(known):
        first = next(event["args"] for event in events if event["ph"] == "C" and event["pid"] == rank)
        kinds = ("parameters", "gradients", "optimizer")
        assert {kind: first[kind] for kind in kinds} == {kind: live[kind] for kind in kinds}
        assert all(first[kind] for kind in kinds)


def test_another_observer_still_hears_everything(tmp_path: Path) -> None:
    """Virtual time and a trace of the same update: the clock's lane and the trace have the same instructions."""
    run = Run({"pp": 2}, accumulate=3)

    def program(world: Communicator) -> tuple[list[str], Any]:
        trainer, clock = run.trainer(world), Clock()
        with observing(Stamps(clock, trainer.mesh.over("layers"))), trace.recording(world, tmp_path) as made:
            trainer.step(toy_batch(0))
        return [f"{do.kind} {do.micro}" for _, _, do in clock.lane], made.ranks

    for rank, (timed, recorded) in enumerate(threads.run(2, program, **LIMIT)):
        assert timed == [span.name for span in recorded[rank].lanes["compute"] if span.kind in ("F", "B")]


@pytest.mark.ranks(2)
def test_processes_write_one_trace(world: Communicator, tmp_path: Path) -> None:
    """Under MPI, with sends whose handles are waited for; rank 0 gathers."""
    run = Run({"pp": 2}, accumulate=3)
    folder = world.gather_objects(tmp_path)[0]
    trainer = run.trainer(world)
    for i in range(BEFORE):
        trainer.step(toy_batch(i))
    with trace.recording(world, folder) as written:
        trainer.step(toy_batch(BEFORE))
    assert len(written.ranks) == 2
    if world.rank == 0:
        assert faults(json.loads((folder / trace.NAME).read_text("utf-8")), 2) == []
        assert "rank 1" in written.text
    else:
        assert written.text == ""


# Files ----------------------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    """Return the message with which both of two ranks refuse the folder."""

    def program(world: Communicator) -> str:
        with pytest.raises(UserError) as refusal, trace.recording(world, folder):
            pytest.fail("it was entered")
        return str(refusal.value)

    first, second = threads.run(2, program, **LIMIT)
    assert first == second
    return first


def test_a_folder_that_cannot_be_one_is_refused_on_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert (
        refused(tmp_path / "file") == f"cannot write a trace in {tmp_path / 'file'}: File exists; give another folder"
    )
    assert "Not a directory" in refused(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", [trace.NAME, trace.PICTURE])
def test_other_files_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"traceEvents": []}')
    assert "is not a trace of minitrain" in refused(tmp_path)
    assert (tmp_path / name).read_text() == '{"traceEvents": []}'


def test_an_earlier_trace_is_replaced(tmp_path: Path) -> None:
    def program(world: Communicator) -> None:
        for name in ("first", "second"):
            with trace.recording(world, tmp_path), recorder.span(name, "update"):
                pass

    threads.run(1, program, **LIMIT)
    written = (tmp_path / trace.NAME).read_text("utf-8")
    assert '"second"' in written and '"first"' not in written
    assert sorted(path.name for path in tmp_path.iterdir()) == [trace.NAME, trace.PICTURE]


def test_an_error_inside_ends_the_recording_and_writes_nothing(tmp_path: Path) -> None:
    def program(world: Communicator) -> None:
        with pytest.raises(ZeroDivisionError), trace.recording(world, tmp_path):
            raise ZeroDivisionError
        assert recorder.current() is None

    threads.run(2, program, **LIMIT)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_in_the_end_is_told_on_all_ranks(tmp_path: Path) -> None:
    def program(world: Communicator) -> str:
        with pytest.raises(trace.Unwritten) as error, trace.recording(world, tmp_path / "folder"):
            world.barrier()
            if world.rank == 0:
                (tmp_path / "folder").rmdir()
        return str(error.value)

    first, second = threads.run(2, program, **LIMIT)
    assert first == second and "cannot be written" in first


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def program(world: Communicator) -> str:
        with trace.recording(world, tmp_path) as made, recorder.span("update 1", "update"):
            pass
        return made.text

    (text,) = threads.run(1, program, **LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == [trace.NAME] and "pip install matplotlib" in text
