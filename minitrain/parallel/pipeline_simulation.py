"""Checks and timing of pipeline schedules, without MPI."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from ..errors import UserError, check_choice, shown
from ..observe.clock import Clock, Costs, Timeline, peak_in_flight
from .instructions import Do, Layout, Lists, Shape, hop, source
from .pipeline_schedules import all_ranks, layout_of

# A send completes this many half steps after its receiver has reached the receive. None: immediately.
SENDS = {"buffered": None, "paired": -1, "blocking": 0}


def execution(lists: Lists, layout: Layout, sends: str = "buffered") -> Iterator[tuple[int, Do]]:
    """Yield all (rank, instruction) pairs in a possible order of execution. Raise UserError if the ranks deadlock.

    For each instruction in its list, a rank receives the input, executes the instruction and sends the output:
    activations after F, a gradient after B or I. Messages are matched by instruction, not by order. A receive completes
    when the other rank has made the message. A send completes, and the rank continues,

        buffered    immediately: isend or issend with a wait at the end of the step, as in pipeline.py;
        paired      when the receiver has finished what precedes its receive: it is then at its own send, which is
                    combined with its next receive (Megatron's batched isend and irecv for 1F1B);
        blocking    when the receiver is at its receive and its own sends have completed: ssend.

    With "buffered", no schedule deadlocks. With "paired", interleaved does unless m = p or v = 1, zb-h2 unless m < 2 p,
    and zb-v unless m <= p. With "blocking", all but naive and gpipe do: of two neighbors, one sends activations, the
    other a gradient; neither reaches its receive.
    """
    check_choice("sends", sends, tuple(SENDS))
    p = len(lists)
    place = {(r, signal(do)): i for r, order in enumerate(lists) for i, do in enumerate(order)}
    half = [0] * p  # position of each rank: 2 i at the receive of its instruction i, 2 i + 1 at the send after it

    def ready(r: int) -> bool:
        i, sending = divmod(half[r], 2)
        other = hop(lists[r][i], r, layout, 1 if sending else -1)
        slack = SENDS[sends] if sending else 1
        if other is None or slack is None or (sending and other[0] == r):
            return True
        return other in place and half[other[0]] >= 2 * place[other] + slack

    while any(half[r] < 2 * len(lists[r]) for r in range(p)):
        before = list(half)
        for r in range(p):
            while half[r] < 2 * len(lists[r]) and ready(r):
                if half[r] % 2 == 0:
                    yield r, lists[r][half[r] // 2]
                half[r] += 1
        if half == before:
            raise UserError(
                f"the ranks wait for each other, with {sends} sends: {'; '.join(stuck(lists, layout, half))}"
            )


def signal(do: Do) -> Do:
    """Return the instruction that others wait for: B counts as I."""
    return replace(do, kind="I") if do.kind == "B" else do


def stuck(lists: Lists, layout: Layout, half: Sequence[int]) -> Iterator[str]:
    """Describe, for each rank that waits, where it waits and for what."""
    for r, order in enumerate(lists):
        i, sending = divmod(half[r], 2)
        other = hop(order[i], r, layout, 1 if sending else -1) if i < len(order) else None
        if other is not None and sending:
            yield f"rank {r}, sending after {order[i]}, waits until rank {other[0]} receives for {other[1]}"
        elif other is not None:
            yield f"rank {r} at {order[i]} waits for {other[1]} on rank {other[0]}"


def check(
    lists: Lists,
    m: int,
    v: int = 1,
    sends: str = "buffered",
    most: Sequence[int] | None = None,
    shape: Shape = "looped",
) -> list[int]:
    """Return the peak number of activations in flight on each rank. Raise UserError if the schedule is wrong.

    Check that each forward and each backward (or I and W) occurs once and after what it needs, that the ranks do not
    deadlock with `sends` as in `execution`, and that each rank has at most `most` activations in flight.
    """
    layout = Layout(len(lists), v, shape)
    for r, order in enumerate(lists):
        check_once(r, order, m, layout)
        check_own_order(r, order)
    for _ in execution(lists, layout, sends):
        pass
    peaks = [peak_in_flight(order) for order in lists]
    for r, (peak, limit) in enumerate(zip(peaks, most or peaks, strict=True)):
        if peak > limit:
            raise UserError(f"rank {r} has {peak} activations in flight; at most {limit} are allowed")
    return peaks


def check_once(r: int, order: Sequence[Do], m: int, layout: Layout) -> None:
    """Raise UserError unless each micro-batch and chunk has F and B once, or F, I and W once, and nothing else."""
    counts = Counter(order)
    for micro, chunk in ((i, c) for i in range(m) for c in layout.chunks_of(i, m)):
        found = {kind: counts.pop(Do(kind, micro, chunk), 0) for kind in "FBIW"}
        if tuple(found.values()) not in ((1, 1, 0, 0), (1, 0, 1, 1)):
            times = ", ".join(f"{kind} {n} times" for kind, n in found.items())
            raise UserError(
                f"rank {r}, micro-batch {micro}, chunk {chunk}: {times}; expected F and B once, or F, I and W once"
            )
    for do in counts:
        raise UserError(
            f"rank {r}: {shown(do)}; there are {m} micro-batches, {layout.v} chunks and the kinds F, B, I and W"
        )


def check_own_order(r: int, order: Sequence[Do]) -> None:
    """Raise UserError if an instruction precedes one that it needs on the same rank."""
    before = {"F": None, "B": "F", "I": "F", "W": "I"}
    done: set[Do] = set()
    for i, do in enumerate(order):
        kind = before[do.kind]
        if kind and replace(do, kind=kind) not in done:
            raise UserError(f"rank {r}, instruction {i}, {do}: waits for {replace(do, kind=kind)}, which comes later")
        done.add(do)


def simulated(name: str, p: int, m: int, v: int | None = None, costs: Costs | None = None, nbytes: int = 0) -> Timeline:
    """Return the timeline of a schedule of SCHEDULES on p ranks, as `simulate` does."""
    return simulate(all_ranks(name, p, m, v), costs, nbytes, layout_of(name, p, 1).shape)


def simulate(lists: Lists, costs: Costs | None = None, nbytes: int = 0, shape: Shape = "looped") -> Timeline:
    """Return the timeline of all ranks, in the time units of `costs`, if each message has nbytes bytes."""
    clocks = [Clock(costs or Costs()) for _ in lists]
    layout = Layout(len(lists), 1 + max((do.chunk for order in lists for do in order), default=0), shape)
    ends: dict[tuple[int, Do], Fraction] = {}
    for r, do in execution(lists, layout):
        needed = source(do, r, layout)
        if needed is not None and needed[0] != r:
            clocks[r].receive(ends[needed], nbytes)
        clocks[r].run(do)
        ends[r, signal(do)] = clocks[r].time
    return Timeline([clock.lane for clock in clocks])
