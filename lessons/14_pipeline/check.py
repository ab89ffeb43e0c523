"""Checks of this lesson's exercises: the happens-before rules, virtual time, the single-process run."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks, fresh
from minitrain.observe.clock import Clock
from minitrain.observe.ledger import Ledger
from minitrain.parallel import pipeline_schedules
from minitrain.parallel.pipeline import ACTIVATIONS, GRADIENTS
from minitrain.parallel.pipeline_schedules import Do, all_ranks
from minitrain.parallel.pipeline_simulation import check as check_lists
from minitrain.parallel.pipeline_simulation import simulate

from .lesson import train as model_solution

SIZES = ((4, 8), (3, 7), (4, 2), (1, 3))  # (p, m): m divisible by p or not, fewer micro-batches than ranks, one rank
RUNS = ((4, 6), (3, 4), (4, 2))
B, WIDTH, STEPS = 13, 32, 2  # 20 samples in batches of 13 and 7
ROUNDED = ((4, 20), (4, 12))  # (p, percent) at which formulas with floats are wrong by rounding
EXACT = ((10, 60), (22, 35), (43, 70), (58, 57))  # others at which the percentage is reached exactly
OTHERS: tuple[tuple[int, int, int, int, Any], ...] = (  # (p, steps, m, batch, schedule)
    (3, 3, 3, 5, "gpipe"),
    (2, 1, 7, 5, "1f1b"),  # more micro-batches than images
    (2, 3, 4, 20, "interleaved"),
    (3, 1, 1, B, pipeline_schedules.naive),
    (1, 3, 3, B, "1f1b"),
)


def micro_batches(p: int, percent: int) -> int:
    """Return the fewest micro-batches with which at most `percent`% of the time is idle on p ranks.

    The schedule is GPipe or 1F1B; idle time is compared with all time, as in the GPipe paper. percent is a whole number
    from 1 to 100. Start with p = 4 and percent = 10.
    """
    return max(1, -(-(p - 1) * (100 - percent) // percent))


# Checks ---------------------------------------------------------------------------------------------------------------


def check_14_1(world: Communicator, gpipe: Callable, report: Report) -> None:
    """Check for GPipe's lists, which work even with blocking sends one by one."""
    if are_right(gpipe, report, lambda p, m: [m] * p, "blocking"):
        runs_like_one_process(world, gpipe, report)
    are_those_of_the_library(gpipe, pipeline_schedules.gpipe, report)


def check_14_2(world: Communicator, one_forward_one_backward: Callable, report: Report) -> None:
    """Check for 1F1B's lists, with each send paired with the receive after it."""
    if are_right(one_forward_one_backward, report, lambda p, m: [min(m, p - r) for r in range(p)], "paired"):
        runs_like_one_process(world, one_forward_one_backward, report)
    are_those_of_the_library(one_forward_one_backward, pipeline_schedules.one_forward_one_backward, report)


def check_14_3(world: Communicator, answer: Callable[[int, int], int], report: Report) -> None:
    """Check the prediction in simulated pipelines: it is enough, and one micro-batch fewer is not."""
    for p, percent in ((4, 10), (8, 25), (3, 15), (2, 50), *ROUNDED, (1, 10), (4, 100), (2, 1)):
        if (p == 1 or (p, percent) == ROUNDED[0]) and not report.ok:
            return  # special cases would hide other mistakes
        m = answer(p, percent)
        asked = f"p = {p}, percent = {percent}: you return m = {m!r}"
        fine, told = _is_whole(m) and 1 <= m <= 1000, f"{asked}; it must be a whole number from 1 on"
        if not report.true(f"number {p} {percent}", fine, told, m):
            return
        idle, fewer = (100 * simulate(all_ranks("1f1b", p, n)).idle for n in (m, max(1, m - 1)))
        report.true("enough", idle <= percent, f"{asked}, with which {float(idle):.2f}% of the time is idle", m)
        too_many = f"{asked}, but {m - 1} are enough: with them {float(fewer):.2f}% of the time is idle"
        report.true("least", m == 1 or fewer > percent, too_many, m)
    for p, percent in EXACT if report.ok else ():
        m, fewest = answer(p, percent), micro_batches(p, percent)
        told = f"p = {p}, percent = {percent}: you return m = {m!r}; the fewest are {fewest}"
        if not report.true("exactly", m == fewest, told, m):
            return
    if report.ok:
        drawn = st.tuples(st.integers(1, 5), st.sampled_from([100, 99, 50, 10]) | st.integers(10, 100))
        agrees(report, answer, micro_batches, drawn, examples=30)


def check_14_4(world: Communicator, train: Callable, report: Report) -> None:
    """Check that the fixed program equals one process and that every stage passes on each micro-batch separately."""
    ring, p, r = RingCommunicator(world), world.size, world.rank
    serial, work = alone()
    for m in (4, 2):
        with Ledger().open() as ledger:
            result = train(ring, toy(), STEPS, m, "1f1b")
        kinds = ", ".join(type(part).__name__ for part in (result if isinstance(result, tuple) else [result]))
        told = f"rank {r} returned {kinds}; it must return (losses, gradients), a list and a dict, on every rank"
        if not all(world.gather_objects(report.true("result", _right_kind(result), told))):
            return
        compare(report, result, serial, f"{p} ranks, m = {m}")
        messages = ledger.messages[ACTIVATIONS], ledger.messages[GRADIENTS]
        theory = (STEPS * m * (r < p - 1), STEPS * m * (r > 0))
        sentence = "rank {rank} sent {got} messages of (activations, gradients) in " + f"{STEPS} updates with m = {m}"
        report.equal("messages", messages, theory, sentence + "; it must be {expected}")
        sent = ledger.bytes[ACTIVATIONS], ledger.bytes[GRADIENTS]
        size = sum(len(toy().batch(i).inputs) for i in range(STEPS)) * WIDTH * 8
        sentence = "rank {rank} sent {got} bytes of (activations, gradients); it must be {expected}"
        report.equal("bytes", sent, (size * (r < p - 1), size * (r > 0)), sentence)
        done = sum(world.gather_objects(ledger.flops)) / work
        report.true("work", done == 1, f"all ranks together did {done:.2f} times the work of one process", done)
    if all(world.gather_objects(report.ok)):
        other_arguments(world, train, report)
    if report.ok:
        drawn = st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from(["1f1b", "gpipe", "naive", "zb-h1"]))
        agrees_on_ranks(report, train, model_solution, drawn, of_a_run, (4, 2, 1), 1e-12, examples=2, traffic=False)


# Instruction lists ----------------------------------------------------------------------------------------------------


def are_right(schedule: Callable, report: Report, peaks: Callable[[int, int], list[int]], sends: str) -> bool:
    """Check without MPI: each F and B once, in an order that the ranks can follow; memory and time."""
    for p, m in SIZES:
        lists, at = [schedule(r, p, m, 1) for r in range(p)], f"p = {p}, m = {m}"
        strange = next(filter(None, map(_strange, lists)), "")
        told = f'{at}: {strange}; it must be a list of Do("F", i) and Do("B", i), with whole numbers i and no chunk'
        if not report.true("lists", not strange, told, strange):
            return False
        wrong = _wrong(lists, m, "buffered")
        if not report.true("order", not wrong, f"{at}: {wrong}", wrong):
            continue
        wrong = _wrong(lists, m, sends)
        told = f"{at}: the lists work only if sends do not wait for their receiver. If they do, {wrong}"
        report.true("synchronous sends", not wrong, told, wrong)
        t = simulate(lists)
        told = f"{at}: the most micro-batches in flight on the ranks are {{got}}; they must be {{expected}}"
        report.equal("in flight", t.peaks, peaks(p, m), told)
        told = f"{at}: the step takes {{got}} units of time; {{expected}} are enough (a forward 1, a backward 2)"
        report.equal("time", t.makespan, 3 * (m + p - 1), told)
    return report.ok


def _wrong(lists: Sequence[Sequence[Do]], m: int, sends: str) -> str:
    """Return what the schedule checker reports; empty if nothing is wrong."""
    try:
        check_lists(lists, m, sends=sends)
    except UserError as error:
        told = re.sub(r"\bI(\d)", r"B\1", str(error))  # the checker calls a backward by its half I, awaited by others
        return re.sub(r", chunk 0|, I 0 times, W 0 times|, or F, I and W once|, 1 chunks and the kinds.*", "", told)
    return ""


def _strange(mine: Any) -> str:
    """Say what is wrong with the type or the elements of a rank's list; empty if nothing is."""
    if not isinstance(mine, list):
        return f"a rank's list is of type {type(mine).__name__}"
    for do in mine:
        if not isinstance(do, Do) or do.kind not in ("F", "B") or not _is_whole(do.micro) or do.chunk != 0:
            return f"a rank's list has {do!r:.50} in it"
    return ""


def are_those_of_the_library(schedule: Callable, model: Callable, report: Report) -> None:
    """Claim that the lists follow the docstring for other sizes, whatever was called before, and that v must be 1."""
    for p, m in product(range(1, 7), (*range(1, 13), 30)) if report.ok else ():
        for r in range(p):
            mine, true = schedule(r, p, m, 1), model(r, p, m, 1)
            strange = _strange(mine) or f"the list is {' '.join(map(str, mine))}"
            told = f"r = {r}, p = {p}, m = {m}: {strange}; it must be {' '.join(map(str, true))}"
            if mine != true and fresh(schedule)(r, p, m, 1) == true:
                told += ", which it is if this call is the first: something is kept between calls"
            if not report.true("list", mine == true, told, strange):
                return
    if report.ok and report.rank == 0:
        sizes = st.tuples(
            st.integers(0, 5), st.integers(1, 6), st.integers(1, 30), st.sampled_from([(), (1,), (2,), (0,)])
        )
        agrees(report, schedule, model, sizes.map(lambda size: (size[0] % size[1], *size[1:3], *size[3])))


def _is_whole(m: Any) -> bool:
    return isinstance(m, (int, np.integer)) and not isinstance(m, bool)


# Runs -----------------------------------------------------------------------------------------------------------------


def runs_like_one_process(world: Communicator, schedule: Callable, report: Report) -> None:
    """Run the lists through the library's interpreter with blocking sends, on the sizes of RUNS."""
    serial, _ = alone()
    for p, m in RUNS:
        group = world if p == world.size else world.subgroup(range(p)) if world.rank < p else None
        if group is None:
            continue
        clock, at = Clock(), f"{p} ranks, m = {m}"
        result = model_solution(Synchronous(group), toy(), STEPS, m, schedule, clock)
        compare(report, result, serial, at)
        lane = simulate([schedule(r, p, m, 1) for r in range(p)]).lanes[group.rank]
        told = f"{at}: rank {group.rank} did not execute its list, or not at the expected times"
        report.true("timeline", clock.lane[: len(lane)] == lane, told)


def other_arguments(world: Communicator, train: Callable, report: Report) -> None:
    """Run other schedules, on fewer ranks, with other data: each rank must do what the schedule says, on its clock."""
    for p, steps, m, batch, schedule in OTHERS:
        group = world if p == world.size else world.subgroup(range(p)) if world.rank < p else None
        if group is None:
            continue
        clock, name = Clock(), schedule if isinstance(schedule, str) else f"the function {schedule.__name__}"
        result = train(group, toy(batch), steps, m, schedule, clock)
        at = f"{p} rank{'s' * (p > 1)}, steps = {steps}, m = {m}, schedule = {name}"
        compare(report, result, alone(steps, batch)[0], at)
        v = 2 if schedule == "interleaved" else 1
        make = pipeline_schedules.SCHEDULES.get(schedule, schedule)
        did = " ".join(str(do) for _, _, do in clock.lane) or "nothing"
        plan = " ".join(map(str, make(group.rank, p, m, v) * steps))
        told = f"{at}: by its clock, rank {group.rank} did {did:.80}; it must do {plan:.80}"
        report.true("as asked", p == 1 or did == plan, told, did)


def of_a_run(train: Callable, comm: Communicator, given: tuple[int, int, str]) -> dict[str, Any]:
    """Return the losses, a checksum of the gradients, and what this rank did by its clock."""
    clock, (steps, m, schedule) = Clock(), given
    losses, gradients = train(comm, toy(), steps, m, schedule, clock)
    numbers = np.concatenate([gradients[path].ravel() for path in sorted(gradients)])
    done = " ".join(str(do) for _, _, do in clock.lane)
    return {"losses": losses, "gradients": float(numbers @ np.cos(np.arange(len(numbers)))), "done": done}


Result = tuple[list[float], dict[str, np.ndarray]]


def compare(report: Report, result: Result, serial: Result, at: str) -> None:
    """Compare losses and gradients: SGD in float64."""
    told = f"{at}: there are {len(result[0])} losses; it must be {len(serial[0])}"
    if not report.true("losses", len(result[0]) == len(serial[0]), told, len(result[0])):
        return
    gap = max(abs(a - b) for a, b in zip(result[0], serial[0], strict=True))
    got, true = (", ".join(f"{loss:.6g}" for loss in losses) for losses, _ in (result, serial))
    report.close("loss", gap, 1e-12, f"{at}: the losses are {got}, but on one process {true}")
    missing = sorted(serial[1].keys() - result[1].keys())
    told = f"{at}: the gradients lack {', '.join(missing)[:80]}; the dict must hold those of all ranks"
    if not report.true("all gradients", not missing, told):
        return
    gap = max(float(np.abs(result[1][path] - true).max()) for path, true in serial[1].items())
    told = f"{at}: the gradients of update {len(serial[0])} differ from those of one process"
    report.close("gradients", gap, 1e-12, told)


def _right_kind(result: Any) -> bool:
    parts = result if isinstance(result, tuple) else ()
    return len(parts) == 2 and isinstance(parts[0], list) and isinstance(parts[1], dict)


@cache
def alone(steps: int = STEPS, batch: int = B) -> tuple[Result, int]:
    """Run one process with the batch in one piece; return the result and its FLOPs."""
    with Ledger().open() as ledger:
        return model_solution(world_of_one(), toy(batch), steps, 1), ledger.flops


def toy(batch: int = B) -> ArrayLoader:
    """Return synthetic images. Neither 13 nor 7 divides evenly into the micro-batches of RUNS."""
    random = np.random.default_rng(batch)
    return ArrayLoader(random.normal(size=(20, 64)), random.integers(0, 10, 20), batch, seed=1)


# Blocking sends -------------------------------------------------------------------------------------------------------


class Synchronous(RingCommunicator):
    """A send completes when the receiver's acknowledgement arrives. Until then this rank does nothing but the one
    receive paired with it: "paired", as in the library's pipeline_simulation.py."""

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.open: list[Sent] = []

    def settle(self) -> None:
        while self.open:
            self.open.pop().wait()

    def _send(self, x: Array, to: int, number: int) -> Any:
        self.settle()
        sent = Sent(self.inner, self.inner._send(x, to, 2 * number), to, 2 * number + 1)
        self.open.append(sent)
        return sent

    def _await(self, source: int, number: int) -> None:
        self.inner._await(source, 2 * number)

    def _receive(self, x: Array, source: int, number: int) -> None:
        self.inner._receive(x, source, 2 * number)
        self.inner._send(np.zeros(1), source, 2 * number + 1).wait()  # small enough to be buffered
        self.settle()


class Sent:
    """Handle of a blocking send."""

    def __init__(self, comm: Communicator, message: Any, to: int, number: int) -> None:
        self.comm, self.message, self.to, self.number, self.over = comm, message, to, number, False

    def done(self) -> bool:
        return self.over

    def wait(self) -> None:
        if not self.over:
            self.comm._receive(np.zeros(1), self.to, self.number)
            self.message.wait()
            self.over = True
