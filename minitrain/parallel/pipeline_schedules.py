"""Pipeline schedules as data: which rank does what, in which order.

A pipeline cuts the model into stages, one a rank (or v chunks a rank: chunk c of rank r is global stage c p + r), and
the batch into m micro-batches. A schedule is a pure function

    (rank r, p stages, m micro-batches, v chunks a rank) -> the list of what rank r does

and pipeline.py is the interpreter that does it. So it can be printed, drawn, checked and timed without MPI:

    lists = all_ranks("1f1b", p=4, m=4)
    check(lists, m=4)                              every rule below, or a UserError that names rank and instruction
    print(simulate(lists, Costs(F=1, I=1, W=1)).draw())

    rank 0 0123......aa.bb.cc.dd                   digits: forward of micro-batch i
    rank 1 .012....aa3bb.cc.dd..                   letters: backward; capitals: weight gradients, where they are apart
    rank 2 ..01..aa2bb3cc.dd....                   dots: idle, the "bubble"
    rank 3 ...0aa1bb2cc3dd......

Happens-before, which is all that ties ranks together:

    F of stage s         after F of stage s - 1                          (its activations arrive)
    B or I of stage s    after B or I of stage s + 1, and its own F      (its output's gradient arrives)
    W of stage s         after its own I                                 (no message)

    schedule       idle / total time             activations in flight on rank r
    naive          1 - 1/p                       1
    gpipe          (p-1) / (m+p-1)               m
    1f1b           (p-1) / (m+p-1)               min(m, p-r)
    interleaved    (p-1) / (v m+p-1)             min(v m, 2 (p-r-1) + (v-1) p + 1), each of 1/v of a stage
    zb-h1          b / (m (F+I+W) + b),          min(m, p)
                   b = (p-1) (F+I-W), if m >= p and W <= F, I

The last column counts from F to B, or to W. Messages cost nothing in these formulas, and all stages the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

from ..errors import UserError, check_choice, check_whole, shown
from ..observe.clock import Clock, Costs, Timeline, peak_in_flight


@dataclass(frozen=True)
class Do:
    """One instruction: F forward, B backward, or its halves: I input gradient, W weight gradients."""

    kind: str
    micro: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.micro}" + (f" of chunk {self.chunk}" if self.chunk else "")


Lists = Sequence[Sequence[Do]]  # what each rank does
Schedule = Callable[[int, int, int, int], list[Do]]  # (rank, stages, micro-batches, chunks): what the rank does


# The schedules ----------------------------------------------------------------------------------------------


def naive(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """A micro-batch at a time: one rank works, the others wait.

    rank 0 0...aa1...bb      idle = 1 - 1/p, whatever m is
    rank 1 .0aa...1bb..      in flight: 1
    """
    one_chunk("naive", v)
    return [Do(kind, i) for i in range(m) for kind in "FB"]


def gpipe(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """All forwards, then all backwards: Do("F", i) and Do("B", i) for the micro-batches i = 0 .. m-1, on every rank.

        rank 0 0123...aabbccdd   idle = (p-1)/(m+p-1)
        rank 1 .0123aabbccdd..   in flight: m

    Backwards in the order of the micro-batches, so that gradients add up as in the serial run; in the paper's figure
    2c they come in reverse. Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965, section 2.3.
    """
    one_chunk("gpipe", v)
    return [Do("F", i) for i in range(m)] + [Do("B", i) for i in range(m)]


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """Each backward as soon as possible: GPipe's bubble, but the memory does not grow with m.

        rank 0 01..aa2bb3cc.dd   idle = (p-1)/(m+p-1)
        rank 1 .0aa1bb2cc3dd..   in flight: min(m, p-r)

    Rank r begins with p-r-1 forwards, one for each stage behind it (or m, if there are fewer micro-batches): the first
    backward is then on its way. From there on it takes turns, a forward and a backward, while there are forwards; at
    the end come the backwards that are left. Both go through the micro-batches in their order, 0 .. m-1.
    Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", ICML 2021, arXiv:2006.09503 (PipeDream-Flush).
    """
    one_chunk("1f1b", v)
    warmup = min(m, p - r - 1)
    steady = m - warmup
    return (
        [Do("F", i) for i in range(warmup)]
        + [do for i in range(steady) for do in (Do("F", warmup + i), Do("B", i))]
        + [Do("B", i) for i in range(steady, m)]
    )


def interleaved(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """1F1B with v chunks on each rank: the pipeline fills in steps that are v times shorter.

    rank 0 0101..aa.bbaabb    idle = (p-1)/(v m+p-1)
    """
    if m % p:
        raise UserError(
            f"{m} micro-batches on {p} stages: the interleaved schedule needs a multiple of {p}, "
            f"such as {max(p, m // p * p)} or {max(p, m // p * p) + p}"
        )
    forwards = [(group + i, c) for group in range(0, m, p) for c in range(v) for i in range(p)]
    backwards = [(i, v - 1 - c) for i, c in forwards]
    warmup = min(v * m, 2 * (p - r - 1) + (v - 1) * p)
    steady = v * m - warmup
    return (
        [Do("F", *at) for at in forwards[:warmup]]
        + [do for f, b in zip(forwards[warmup:], backwards[:steady], strict=True) for do in (Do("F", *f), Do("B", *b))]
        + [Do("B", *at) for at in backwards[steady:]]
    )


def zero_bubble_h1(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """1F1B with B in two: I, for which the stage before waits, and W, for which nobody does: it fills the bubble.

        rank 0 012..aA3bBcCdD    idle time of a rank: (p-1)(F+I-W), if m >= p and W <= F and W <= I
        rank 1 .01.a2bA3cBdCD    in flight: min(m, p)
        rank 2 ..0a1b2cA3dBCD

    Rank r puts W off by r micro-batches. In 1F1B it has p-r in flight, so there is room for r more, and then every
    rank has p, which is the most that 1F1B has anywhere. Never slower than 1F1B.
    Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, arXiv:2401.10241, section 2.1 (where I is called B).
    """
    one_chunk("zb-h1", v)
    warmup = min(m, p - r - 1)
    instructions = [Do("F", i) for i in range(warmup)]
    for i in range(m):
        instructions += [Do("F", warmup + i)] if warmup + i < m else []
        instructions += [Do("I", i)]
        instructions += [Do("W", i - r)] if i >= r else []
    return instructions + [Do("W", i) for i in range(max(0, m - r), m)]


def one_chunk(name: str, v: int) -> None:
    if v != 1:
        raise UserError(f"{v} chunks a rank: the {name} schedule has 1; 'interleaved' has more")


SCHEDULES: dict[str, Callable[..., list[Do]]] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb-h1": zero_bubble_h1,
}


def all_ranks(name: str, p: int, m: int, v: int = 1) -> list[list[Do]]:
    """The lists of all ranks. Raises UserError for a name, or numbers, that no schedule has."""
    check_choice("schedule", name, tuple(SCHEDULES))
    for what, number in (("stages", p), ("micro-batches", m), ("chunks", v)):
        check_whole(what, number, least=1)
    return [SCHEDULES[name](r, p, m, v) for r in range(p)]


# What ties ranks together -----------------------------------------------------------------------------------


def source(do: Do, r: int, p: int, v: int = 1) -> tuple[int, Do] | None:
    """The rank and the instruction that make what rank r needs for this one; None if it needs no message.

    A B counts as the I that is in it.
    """
    return hop(do, r, p, v, -1)


def target(do: Do, r: int, p: int, v: int = 1) -> tuple[int, Do] | None:
    """The rank and the instruction that need what this one makes on rank r; None if nobody does."""
    return hop(do, r, p, v, 1)


def hop(do: Do, r: int, p: int, v: int, way: int) -> tuple[int, Do] | None:
    """One stage on (1) or back (-1) in the direction in which the data goes: on for F, back for B and I."""
    stage = do.chunk * p + r + (way if do.kind == "F" else -way)
    if do.kind == "W" or not 0 <= stage < p * v:
        return None
    return stage % p, Do("F" if do.kind == "F" else "I", do.micro, stage // p)


# When a send is over: so many half steps after its receiver came to the receive. None: at once.
SENDS = {"buffered": None, "paired": -1, "blocking": 0}


def execution(lists: Lists, v: int = 1, sends: str = "buffered") -> Iterator[tuple[int, Do]]:
    """All instructions in an order in which the ranks may do them; raises UserError when they wait for each other.

    A rank goes through its list. For each instruction it receives what that needs, does it, and sends what it made:
    activations after F, a gradient after B or I. Messages are told apart by what they are for, not by their order. A
    receive is over when the other rank has made what is received. A send is over, and the rank goes on,

        buffered    at once: isend or issend, with a wait at the end of the step, which is what pipeline.py does;
        paired      when the receiver has done what comes before its receive: it is then at its own send, which goes
                    together with its next receive (Megatron's batched isend and irecv for 1F1B);
        blocking    when the receiver is at its receive, and all that it sent is over: ssend.

    All schedules pass "buffered". "paired" stops interleaved, unless m = p or v = 1; "blocking" stops all but naive
    and gpipe: of two neighbours one sends activations, the other a gradient, and neither gets to its receive.
    """
    check_choice("sends", sends, tuple(SENDS))
    p = len(lists)
    place = {(r, signal(do)): i for r, mine in enumerate(lists) for i, do in enumerate(mine)}
    half = [0] * p  # where each rank is: 2 i at the receive for its instruction i, 2 i + 1 at the send after it

    def ready(r: int) -> bool:
        i, sending = divmod(half[r], 2)
        other = hop(lists[r][i], r, p, v, 1 if sending else -1)
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
            raise UserError(f"the ranks wait for each other, with {sends} sends: {'; '.join(stuck(lists, v, half))}")


def signal(do: Do) -> Do:
    """The instruction as the one that others wait for."""
    return replace(do, kind="I") if do.kind == "B" else do


def stuck(lists: Lists, v: int, half: Sequence[int]) -> Iterator[str]:
    """Who waits where, and for what."""
    for r, mine in enumerate(lists):
        i, sending = divmod(half[r], 2)
        other = hop(mine[i], r, len(lists), v, 1 if sending else -1) if i < len(mine) else None
        if other is not None and sending:
            yield f"rank {r}, sending after {mine[i]}, waits until rank {other[0]} receives for {other[1]}"
        elif other is not None:
            yield f"rank {r} at {mine[i]} waits for {other[1]} on rank {other[0]}"


# Checked and timed without MPI ------------------------------------------------------------------------------


def check(lists: Lists, m: int, v: int = 1, sends: str = "buffered", most: Sequence[int] | None = None) -> list[int]:
    """Returns the peak of activations in flight on each rank; raises UserError for a schedule that is wrong.

    Each forward and each backward, or I and W, is there once; each comes after what it needs; the ranks do not wait
    for each other when each goes through its list, with sends as in `execution`; and no more activations are in
    flight than `most` allows on each rank.
    """
    for r, mine in enumerate(lists):
        check_once(r, mine, m, v)
        check_own_order(r, mine)
    for _ in execution(lists, v, sends):
        pass
    peaks = [peak_in_flight(mine) for mine in lists]
    for r, (peak, limit) in enumerate(zip(peaks, most or peaks, strict=True)):
        if peak > limit:
            raise UserError(f"rank {r} has {peak} activations in flight; there may be {limit}")
    return peaks


def check_once(r: int, mine: Sequence[Do], m: int, v: int) -> None:
    counts = Counter(mine)
    for micro, chunk in product(range(m), range(v)):
        found = {kind: counts.pop(Do(kind, micro, chunk), 0) for kind in "FBIW"}
        if tuple(found.values()) not in ((1, 1, 0, 0), (1, 0, 1, 1)):
            times = ", ".join(f"{kind} {n} times" for kind, n in found.items())
            raise UserError(
                f"rank {r}, micro-batch {micro}, chunk {chunk}: {times}; it must be F and B once, or F, I and W once"
            )
    for do in counts:
        raise UserError(f"rank {r}: {shown(do)}; there are {m} micro-batches, {v} chunks and the kinds F, B, I and W")


def check_own_order(r: int, mine: Sequence[Do]) -> None:
    before = {"F": None, "B": "F", "I": "F", "W": "I"}
    done: set[Do] = set()
    for i, do in enumerate(mine):
        kind = before[do.kind]
        if kind and replace(do, kind=kind) not in done:
            raise UserError(f"rank {r}, instruction {i}, {do}: waits for {replace(do, kind=kind)}, which comes later")
        done.add(do)


def simulate(lists: Lists, costs: Costs | None = None, nbytes: int = 0) -> Timeline:
    """When each rank does what, if instructions cost this and every message has so many bytes."""
    clocks = [Clock(costs or Costs()) for _ in lists]
    v = 1 + max((do.chunk for mine in lists for do in mine), default=0)
    ends: dict[tuple[int, Do], Fraction] = {}
    for r, do in execution(lists, v):
        needed = source(do, r, len(lists), v)
        if needed is not None and needed[0] != r:
            clocks[r].receive(ends[needed], nbytes)
        clocks[r].run(do)
        ends[r, signal(do)] = clocks[r].time
    return Timeline([clock.lane for clock in clocks])
