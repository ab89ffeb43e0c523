"""Checks of this lesson's exercises: the happens-before rules, virtual time, the single-process run."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lessons.report import Report
from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.observe.clock import Clock
from minitrain.observe.ledger import Ledger
from minitrain.parallel.pipeline import ACTIVATIONS, GRADIENTS
from minitrain.parallel.pipeline_schedules import Do, all_ranks
from minitrain.parallel.pipeline_simulation import check as check_lists
from minitrain.parallel.pipeline_simulation import simulate

from .lesson import train

SIZES = ((4, 8), (3, 7), (4, 2), (1, 3))  # (p, m): m divisible by p or not, fewer micro-batches than ranks, one rank
RUNS = ((4, 6), (3, 4), (4, 2))
B, WIDTH, STEPS = 13, 32, 2  # 20 samples in batches of 13 and 7


def micro_batches(p: int, percent: int) -> int:
    """Return the fewest micro-batches with which at most `percent` per cent of the time is idle on p ranks.

    The schedule is GPipe or 1F1B; idle time is compared with all time, as in the GPipe paper. Start with p = 4 and
    percent = 10.
    """
    return max(1, -(-(p - 1) * (100 - percent) // percent))


# Checks ---------------------------------------------------------------------------------------------------------------


def check_14_1(world: Communicator, gpipe: Callable, report: Report) -> None:
    """Check for GPipe's lists, which work even with blocking sends one by one."""
    if are_right(gpipe, report, lambda p, m: [m] * p, "blocking"):
        runs_like_one_process(world, gpipe, report)


def check_14_2(world: Communicator, one_forward_one_backward: Callable, report: Report) -> None:
    """Check for 1F1B's lists, with each send paired with the receive after it."""
    if are_right(one_forward_one_backward, report, lambda p, m: [min(m, p - r) for r in range(p)], "paired"):
        runs_like_one_process(world, one_forward_one_backward, report)


def check_14_3(world: Communicator, micro_batches: Callable[[int, int], int], report: Report) -> None:
    """Check the prediction in simulated pipelines: it is enough, and one micro-batch fewer is not."""
    for p, percent in ((4, 10), (8, 25), (3, 15), (2, 50), (1, 10)):
        if p == 1 and not report.ok:
            return  # one rank is a special case that would hide other mistakes
        m = micro_batches(p, percent)
        asked = f"p = {p}, at most {percent} of 100: you say m = {m!r}"
        if not report.true("number", _is_whole(m) and 1 <= m <= 1000, f"{asked}; it must be an int from 1 on", m):
            return
        idle, fewer = (100 * simulate(all_ranks("1f1b", p, n)).idle for n in (m, max(1, m - 1)))
        report.true("enough", idle <= percent, f"{asked}, which leaves {float(idle):.2f} of 100 idle", m)
        too_many = f"{asked}, but {m - 1} are enough: they leave {float(fewer):.2f} of 100 idle"
        report.true("least", m == 1 or fewer > percent, too_many, m)


def check_14_4(world: Communicator, train: Callable, report: Report) -> None:
    """Check that the repaired program equals one process and that every stage passes on each micro-batch separately."""
    ring, p, r = RingCommunicator(world), world.size, world.rank
    for m in (4, 2):
        serial, work = alone(m)
        with Ledger().open() as ledger:
            result = train(ring, toy(), STEPS, m, "1f1b")
        if not report.true("result", _right_kind(result), f"train returned {type(result).__name__}, not two things"):
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


# Instruction lists ----------------------------------------------------------------------------------------------------


def are_right(schedule: Callable, report: Report, peaks: Callable[[int, int], list[int]], sends: str) -> bool:
    """Check without MPI: each F and B once, in an order that the ranks can follow; memory and time."""
    for p, m in SIZES:
        lists, at = [schedule(r, p, m, 1) for r in range(p)], f"p = {p}, m = {m}"
        strange = next((mine for mine in lists if not _is_list(mine)), None)
        told = f'{at}: a rank\'s list is {strange!r:.50}; it must be a list of Do("F", i) and Do("B", i)'
        if not report.true("lists", strange is None, told):
            return False
        wrong = _wrong(lists, m, "buffered")
        if not report.true("order", not wrong, f"{at}: {wrong}", wrong):
            continue
        wrong = _wrong(lists, m, sends)
        told = f"{at}: the lists need sends that do not wait for their receiver. With others, {wrong}"
        report.true("synchronous sends", not wrong, told, wrong)
        t = simulate(lists)
        told = f"{at}: the ranks have {{got}} activations in flight at the worst moment; it must be {{expected}}"
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


def _is_list(mine: Any) -> bool:
    return isinstance(mine, list) and all(isinstance(do, Do) and do.kind in ("F", "B") for do in mine)


def _is_whole(m: Any) -> bool:
    return isinstance(m, (int, np.integer)) and not isinstance(m, bool)


# Runs -----------------------------------------------------------------------------------------------------------------


def runs_like_one_process(world: Communicator, schedule: Callable, report: Report) -> None:
    """Run the lists through the library's interpreter with blocking sends, on the sizes of RUNS."""
    for p, m in RUNS:
        group = world if p == world.size else world.subgroup(range(p)) if world.rank < p else None
        if group is None:
            continue
        clock, at = Clock(), f"{p} ranks, m = {m}"
        result = train(Synchronous(group), toy(), STEPS, m, schedule, clock)
        compare(report, result, alone(m)[0], at)
        lane = simulate([schedule(r, p, m, 1) for r in range(p)]).lanes[group.rank]
        told = f"{at}: rank {group.rank} did something else than its list says, or at another time"
        report.true("timeline", clock.lane[: len(lane)] == lane, told)


Result = tuple[list[float], dict[str, np.ndarray]]


def compare(report: Report, result: Result, serial: Result, at: str) -> None:
    """Compare losses and gradients: SGD in float64."""
    gap = max(abs(a - b) for a, b in zip(result[0], serial[0], strict=True))
    got, true = (" and ".join(f"{loss:.6g}" for loss in losses) for losses, _ in (result, serial))
    report.close("loss", gap, 1e-12, f"{at}: the losses {got} are not those of one process, {true}")
    gap = max(float(np.abs(result[1][path] - true).max()) for path, true in serial[1].items())
    report.close("gradients", gap, 1e-12, f"{at}: the gradients of update {STEPS} are not those of one process")


def _right_kind(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and len(result[0]) == STEPS and isinstance(result[1], dict)


def alone(m: int) -> tuple[Result, int]:
    """Run one process with the batch in one piece; return the result and its FLOPs."""
    with Ledger().open() as ledger:
        return train(world_of_one(), toy(), STEPS, 1), ledger.flops


def toy() -> ArrayLoader:
    """Return synthetic images. Neither 13 nor 7 divides evenly into the micro-batches of RUNS."""
    random = np.random.default_rng(0)
    return ArrayLoader(random.normal(size=(20, 64)), random.integers(0, 10, 20), B, seed=1)


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
