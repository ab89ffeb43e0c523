"""Pipeline schedules as data: the instructions of each rank, in order.

A pipeline cuts the model into stages, one per rank (or v chunks per rank: chunk c of rank r is global stage c p + r),
and the batch into m micro-batches. A schedule is a pure function

    (rank r, p stages, m micro-batches, v chunks per rank) -> the list of rank r's instructions

and pipeline.py interprets the list. A list can thus be printed and drawn, and checked and timed without MPI
(pipeline_simulation.py):

    lists = all_ranks("1f1b", p=4, m=4)
    check(lists, m=4)                              checks every rule below; its UserError names rank and instruction
    print(simulate(lists, Costs(F=1, I=1, W=1)).draw())

    rank 0 0123......aa.bb.cc.dd                   digits: forward of micro-batch i
    rank 1 .012....aa3bb.cc.dd..                   letters: backward; capitals: weight gradients, if separate
    rank 2 ..01..aa2bb3cc.dd....                   dots: idle, the "bubble"
    rank 3 ...0aa1bb2cc3dd......

The only dependencies between ranks:

    F of stage s         after F of stage s - 1                          (receives its activations)
    B or I of stage s    after B or I of stage s + 1, and its own F      (receives its output's gradient)
    W of stage s         after its own I                                 (no message)

    schedule       idle / total time             activations in flight on rank r
    naive          1 - 1/p                       1
    gpipe          (p-1) / (m+p-1)               m
    1f1b           (p-1) / (m+p-1)               min(m, p-r)
    interleaved    (p-1) / (v m+p-1)             min(v m, 2 (p-r-1) + (v-1) p + 1), each of 1/v of a stage
    zb-h1          b / (m (F+I+W) + b),          min(m, p)
                   b = (p-1) (F+I-W), if m >= p and W <= F, I

The last column counts from F to B, or to W. These formulas assume free messages and stages of equal cost. Schedules
other than interleaved raise UserError unless v is 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UserError, check_choice, check_whole


@dataclass(frozen=True)
class Do:
    """One instruction: F forward, B backward, or its halves I (input gradient) and W (weight gradients)."""

    kind: str
    micro: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.micro}" + (f" of chunk {self.chunk}" if self.chunk else "")


Lists = Sequence[Sequence[Do]]  # the instructions of each rank
Schedule = Callable[[int, int, int, int], list[Do]]  # (rank, stages, micro-batches, chunks) -> the rank's instructions


def naive(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """Process one micro-batch at a time: one rank works while the others wait.

    rank 0 0...aa1...bb      idle = 1 - 1/p, for every m
    rank 1 .0aa...1bb..      in flight: 1
    """
    one_chunk("naive", v)
    return [Do(kind, i) for i in range(m) for kind in "FB"]


def gpipe(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """Run all forwards, then all backwards: Do("F", i) and Do("B", i) for micro-batches i = 0 .. m-1, on every rank.

        rank 0 0123...aabbccdd   idle = (p-1)/(m+p-1)
        rank 1 .0123aabbccdd..   in flight: m

    Backwards go in the order of the micro-batches, so that gradients are summed as in the serial run; in the paper's
    figure 2c the order is reversed. Raise UserError unless v is 1 (`one_chunk`).
    Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965, section 2.3.
    """
    one_chunk("gpipe", v)
    return [Do("F", i) for i in range(m)] + [Do("B", i) for i in range(m)]


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """Run each backward as soon as possible: the same bubble as GPipe, but memory does not grow with m.

        rank 0 01..aa2bb3cc.dd   idle = (p-1)/(m+p-1)
        rank 1 .0aa1bb2cc3dd..   in flight: min(m, p-r)

    Rank r begins with p-r-1 forwards, one for each stage after it (or m, if there are fewer micro-batches): the first
    backward is then on its way. It then alternates one forward and one backward until no forwards are left, and ends
    with the remaining backwards. Both go through the micro-batches in order, 0 .. m-1.
    Raise UserError unless v is 1 (`one_chunk`).
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
    """1F1B with v chunks per rank: the pipeline fills in steps that are v times shorter.

    rank 0 0101..aa.bbaabb    idle = (p-1)/(v m+p-1)

    Raise UserError unless p divides m. Narayanan et al., arXiv:2104.04473, section 2.2.2.
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
    """1F1B with B split into I, for which the previous stage waits, and W, which fills the bubble.

        rank 0 012..aA3bBcCdD    idle time of a rank: (p-1)(F+I-W), if m >= p and W <= F and W <= I
        rank 1 .01.a2bA3cBdCD    in flight: min(m, p)
        rank 2 ..0a1b2cA3dBCD

    Rank r delays W by r micro-batches. In 1F1B it has p-r in flight, so r more bring every rank to p, the peak of 1F1B
    on rank 0. The schedule is never slower than 1F1B.
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
    """Raise UserError unless v is 1."""
    if v != 1:
        raise UserError(f"{v} chunks per rank: the {name} schedule has 1; use 'interleaved' for more")


SCHEDULES: dict[str, Callable[..., list[Do]]] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb-h1": zero_bubble_h1,
}


def all_ranks(name: str, p: int, m: int, v: int = 1) -> list[list[Do]]:
    """Return the lists of all p ranks. Raise UserError for an unknown name or invalid numbers."""
    check_choice("schedule", name, tuple(SCHEDULES))
    for what, number in (("stages", p), ("micro-batches", m), ("chunks", v)):
        check_whole(what, number, least=1)
    return [SCHEDULES[name](r, p, m, v) for r in range(p)]


def source(do: Do, r: int, p: int, v: int) -> tuple[int, Do] | None:
    """Return the (rank, instruction) whose output rank r needs for this one, or None if it needs no message.

    A B is returned as the I it contains.
    """
    return hop(do, r, p, v, -1)


def target(do: Do, r: int, p: int, v: int) -> tuple[int, Do] | None:
    """Return the (rank, instruction) that needs this one's output on rank r, or None if there is none."""
    return hop(do, r, p, v, 1)


def hop(do: Do, r: int, p: int, v: int, way: int) -> tuple[int, Do] | None:
    """Return the neighbor of `do` one step along (1) or against (-1) its data flow: up for F, down for B and I."""
    stage = do.chunk * p + r + (way if do.kind == "F" else -way)
    if do.kind == "W" or not 0 <= stage < p * v:
        return None
    return stage % p, Do("F" if do.kind == "F" else "I", do.micro, stage // p)
