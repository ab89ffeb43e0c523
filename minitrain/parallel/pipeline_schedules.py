"""Pipeline schedules as data: the instructions of each rank, in order.

A pipeline cuts the model into stages, one per rank or v chunks per rank (see Layout), and the batch into m
micro-batches. A schedule is a pure function

    (rank r, p stages, m micro-batches, v chunks per rank) -> the list of rank r's instructions

and pipeline.py interprets the list. A list can thus be printed and drawn, and checked and timed without MPI
(pipeline_simulation.py):

    lists = all_ranks("1f1b", p=4, m=4)
    check(lists, m=4)                              its UserError names the rank and the instruction
    print(simulate(lists, Costs(F=1, I=1, W=1)).draw())

    rank 0 0123......aa.bb.cc.dd                   digits: forward of micro-batch i
    rank 1 .012....aa3bb.cc.dd..                   letters: backward; capitals: weight gradients, if separate
    rank 2 ..01..aa2bb3cc.dd....                   dots: idle, the "bubble"
    rank 3 ...0aa1bb2cc3dd......

instructions.py says what an instruction waits for.

    schedule       idle / total time             activations in flight on rank r
    naive          1 - 1/p                       1
    gpipe          (p-1) / (m+p-1)               m
    1f1b           (p-1) / (m+p-1)               min(m, p-r)
    interleaved    (p-1) / (v m+p-1)             min(v m, 2 (p-r-1) + (v-1) p + 1), each of 1/v of a stage
    zb-h1          b / (m (F+I+W) + b),          min(m, p)
                   b = (p-1) (F+I-W), if m >= p and W <= F, I
    zb-h2          (p-1) / (3 m+p-1)             min(m, 2 p-1)
    zb-v           (p-1) / (6 m+p-1)             min(2 m, 2 p), each of half a stage
    dualpipe       b / (m (F+I+W) + b),          p + 1
                   b = (p/2-1) (F+I-W), if W <= F = I

The last column counts from F to B, or to W. These formulas assume free messages and stages of equal cost; those of
zb-h2 and zb-v also F = I = W and m >= 2 p-1. Under these two, a rank has no idle time between its first and its last
instruction: all of it is the wait for the first micro-batch, and for the ranks that started later.
"""

from collections.abc import Callable

from ..errors import UserError, check_choice, check_whole
from .instructions import Do, Layout, Schedule, Shape, one_chunk
from .zero_bubble import dualpipe, zero_bubble_h1, zero_bubble_h2, zero_bubble_v


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


SCHEDULES: dict[str, Callable[..., list[Do]]] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb-h1": zero_bubble_h1,
    "zb-h2": zero_bubble_h2,
    "zb-v": zero_bubble_v,
    "dualpipe": dualpipe,
}
CHUNKS = {"interleaved": 2, "zb-v": 2, "dualpipe": 2}  # per rank, by default; 1 in the others


def default_chunks(schedule: str | Schedule) -> int:
    """Return the chunks per rank of a schedule for which no number is given."""
    return CHUNKS.get(schedule, 1) if isinstance(schedule, str) else 1


def layout_of(schedule: str | Schedule, p: int, v: int) -> Layout:
    """Return which stages p ranks with v chunks each hold under this schedule. A function's stages are looped."""
    shape: Shape = "V" if schedule in ("zb-v", zero_bubble_v) else "looped"
    return Layout(p, v, "two-way" if schedule in ("dualpipe", dualpipe) else shape)


def all_ranks(name: str, p: int, m: int, v: int | None = None) -> list[list[Do]]:
    """Return the lists of all p ranks. Raise UserError for an unknown name or invalid numbers."""
    check_choice("schedule", name, tuple(SCHEDULES))
    v = default_chunks(name) if v is None else v
    for what, number in (("stages", p), ("micro-batches", m), ("chunks", v)):
        check_whole(what, number, least=1)
    return [SCHEDULES[name](r, p, m, v) for r in range(p)]
