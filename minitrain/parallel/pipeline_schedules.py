"""Pipeline schedules as data: the instructions of each rank, in order.

A pipeline cuts the model into stages, one per rank or v chunks per rank (see Layout), and the batch into m
micro-batches. A schedule is a pure function

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
    zb-h2          (p-1) / (3 m+p-1)             min(m, 2 p-1)
    zb-v           (p-1) / (6 m+p-1)             min(2 m, 2 p), each of half a stage

The last column counts from F to B, or to W. These formulas assume free messages and stages of equal cost; the last two
also F = I = W and m >= 2 p-1. Under these two, a rank has no idle time between its first and its last instruction: all
of it is the wait for the first micro-batch, and for the ranks that started later.
"""

from collections import deque
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


@dataclass(frozen=True)
class Layout:
    """Which stage of the model each chunk of each rank is, on p ranks with v chunks each.

                looped           V-shaped: every second chunk goes back
    rank        0 1 2 3          0 1 2 3
    chunk 0     0 1 2 3          0 1 2 3
    chunk 1     4 5 6 7          7 6 5 4
    """

    p: int
    v: int = 1
    v_shaped: bool = False

    def stage(self, r: int, chunk: int) -> int:
        """Return the stage of this chunk of rank r."""
        return chunk * self.p + (self.p - 1 - r if self.v_shaped and chunk % 2 else r)

    def place(self, stage: int) -> tuple[int, int]:
        """Return the (rank, chunk) of a stage."""
        chunk, r = divmod(stage, self.p)
        return (self.p - 1 - r if self.v_shaped and chunk % 2 else r), chunk

    @property
    def stages(self) -> int:
        """The number of stages."""
        return self.p * self.v


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


def zero_bubble_h2(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    """Zero-bubble without idle time inside a rank, for twice the memory: the pipeline is filled with more forwards.

        rank 0 01234aA5bBcCdDeEfF      idle time between a rank's first and last instruction: (p-1) (F+I-2W),
        rank 1 .012a3b4cA5dBeCfDEF     if m >= 2 p-1 and W <= F and W <= I
        rank 2 ..0a1b2c3d4eA5fBCDEF    in flight: min(m, 2 p-1)

    Rank r begins with 2 (p-r)-1 forwards, which last until its first gradient is back, and delays W by 2 r
    micro-batches. So the last gradients pass up without waiting for any W, and the delayed ones fill the time that is
    left. Ranks start one after the other and end one after the other: the update as a whole takes (p-1) F longer.
    (In the paper, each rank updates its parameters as soon as it is done; here they wait for the norm of all.)
    Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, arXiv:2401.10241, section 2.2 (where I is called B).
    """
    one_chunk("zb-h2", v)
    warmup = min(m, 2 * (p - r) - 1)
    instructions = [Do("F", i) for i in range(warmup)]
    for i in range(m):
        instructions += [Do("I", i)]
        instructions += [Do("W", i - 2 * r)] if i >= 2 * r else []
        instructions += [Do("F", warmup + i)] if warmup + i < m else []
    return instructions + [Do("W", i) for i in range(max(0, m - 2 * r), m)]


def zero_bubble_v(r: int, p: int, m: int, v: int = 2) -> list[Do]:
    """Zero-bubble without idle time inside a rank, with the memory of 1F1B: two chunks a rank, in the shape of a V.

        rank 0 0120aA1baBA2cbCcBC      idle time between a rank's first and last instruction: 0,
        rank 1 .0011aaA2A2bbccBBCC     if m >= 2 p-1 and F = I = W; in flight: min(2 m, 2 p), each of half a stage

    A micro-batch goes down through the first chunks of all ranks and back up through the second ones (Layout). So the
    last stage is on rank 0, and the first gradient is there after 2 p forwards instead of p forwards and p backwards of
    whole stages. Both ends of the model are on rank 0: a tied weight needs no sum over ranks.

    Once the pipeline is full, rank r repeats: F of chunk 1 for micro-batch i, I of chunk 1 for i-r, I of chunk 0 for
    i-p+1, one W, F of chunk 0 for the next one, and another W. W is always the oldest that is owed.
    Raise UserError unless v is 2. Qi et al., arXiv:2401.10241, section 6 (where I is called B); as a repeated block: Qi
    et al., "Pipeline Parallelism with Controllable Memory", NeurIPS 2024, arXiv:2405.15362.
    """
    if v != 2:
        raise UserError(f"{v} chunks per rank: the zb-v schedule has 2")
    warmup = min(m, 2 * (p - r) - 1)
    instructions = [Do("F", i, 0) for i in range(warmup)]
    forwards, owed = deque(Do("F", i, 0) for i in range(warmup, m)), deque[Do]()

    def take(waiting: deque[Do]) -> None:
        instructions.extend([waiting.popleft()] if waiting else [])

    def input_gradient(micro: int, chunk: int) -> None:
        instructions.append(Do("I", micro, chunk))
        owed.append(Do("W", micro, chunk))

    for i in range(m + p - 1):
        if i < m:
            instructions.append(Do("F", i, 1))
        if r <= i < m + r:
            input_gradient(i - r, 1)
        elif i >= m:  # nothing else to do until the next gradient arrives
            take(owed)
        if i >= p - 1:
            input_gradient(i - p + 1, 0)
        if i < m - 1:  # from the last forward on, gradients come first
            take(owed)
            take(forwards if i < r or i >= p - 1 else deque())  # in between, all activations that fit are there
            take(owed)
    return instructions + list(owed)


def one_chunk(name: str, v: int) -> None:
    """Raise UserError unless v is 1."""
    if v != 1:
        raise UserError(f"{v} chunks per rank: the {name} schedule has 1; interleaved and zb-v have more")


SCHEDULES: dict[str, Callable[..., list[Do]]] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb-h1": zero_bubble_h1,
    "zb-h2": zero_bubble_h2,
    "zb-v": zero_bubble_v,
}
CHUNKS = {"interleaved": 2, "zb-v": 2}  # per rank, by default; 1 in the others


def default_chunks(schedule: str | Schedule) -> int:
    """Return the chunks per rank of a schedule for which no number is given."""
    return CHUNKS.get(schedule, 1) if isinstance(schedule, str) else 1


def layout_of(schedule: str | Schedule, p: int, v: int) -> Layout:
    """Return which stages p ranks with v chunks each hold under this schedule. A function's stages are looped."""
    return Layout(p, v, schedule in ("zb-v", zero_bubble_v))


def all_ranks(name: str, p: int, m: int, v: int | None = None) -> list[list[Do]]:
    """Return the lists of all p ranks. Raise UserError for an unknown name or invalid numbers."""
    check_choice("schedule", name, tuple(SCHEDULES))
    v = default_chunks(name) if v is None else v
    for what, number in (("stages", p), ("micro-batches", m), ("chunks", v)):
        check_whole(what, number, least=1)
    return [SCHEDULES[name](r, p, m, v) for r in range(p)]


def source(do: Do, r: int, layout: Layout) -> tuple[int, Do] | None:
    """Return the (rank, instruction) whose output rank r needs for this one, or None if it needs no message.

    A B is returned as the I it contains.
    """
    return hop(do, r, layout, -1)


def target(do: Do, r: int, layout: Layout) -> tuple[int, Do] | None:
    """Return the (rank, instruction) that needs this one's output on rank r, or None if there is none."""
    return hop(do, r, layout, 1)


def hop(do: Do, r: int, layout: Layout, way: int) -> tuple[int, Do] | None:
    """Return the neighbor of `do` one step along (1) or against (-1) its data flow: up for F, down for B and I."""
    stage = layout.stage(r, do.chunk) + (way if do.kind == "F" else -way)
    if do.kind == "W" or not 0 <= stage < layout.stages:
        return None
    rank, chunk = layout.place(stage)
    return rank, Do("F" if do.kind == "F" else "I", do.micro, chunk)
