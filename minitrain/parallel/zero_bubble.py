"""Schedules that split the backward: I, for which the stage before waits, and W, which can wait and fill a bubble.

Like those in pipeline_schedules.py, each is a pure function (rank r, p stages, m micro-batches, v chunks per rank) ->
the instructions of the rank.
"""

from collections import deque
from dataclasses import replace

from ..errors import UserError
from .instructions import Do, one_chunk


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


def dualpipe(r: int, p: int, m: int, v: int = 2) -> list[Do]:
    """Fill the pipeline from both ends: rank r holds stage r for one half of the micro-batches and p-1-r for the other.

        rank 0 0124eE53ff6aagg7.bbhhcCdD      idle time of a rank: (p/2-1) (F+I-W), if W <= F = I
        rank 1 .04152ee6aa3ff7bbggcchdHD      in flight: p + 1; parameters, gradients and optimizer state take
        rank 2 .40516aa2ee7bb3ffccggdhDH      twice the memory
        rank 3 4560aA17bb2eecc3.ffddgGhH

    For ranks in the first half, "near" is the direction that begins at rank 0. Both ends are alike, so each does:

        warm up     forwards near; then alternately near and far; then I, W and F far, while the pipeline fills
        steady      F near, B far, F far, B near: two pairs. In the paper, the F and the B of a pair run as one and hide
                    each other's communication. Here they run one after the other
        drain       B far, F far, B near; then B far and near, from the middle on split into I and W, which ends it

    After the last backward, the two replicas of a stage add their gradients. Raise UserError unless v is 2, p and m are
    even, and m is at least 2 p. DeepSeek-AI, "DeepSeek-V3 Technical Report", arXiv:2412.19437, section 3.2.1. There,
    with F&B for a pair, the bubble is (p/2-1) (F&B + B - 3W), if W <= F <= I: the output of F leaves only after B.
    """
    if v != 2:
        raise UserError(f"{v} chunks per rank: the dualpipe schedule has 2")
    if p % 2 or m % 2 or m < 2 * p:
        raise UserError(
            f"{m} micro-batches on {p} stages: dualpipe needs an even number of both, and {2 * p} micro-batches or more"
        )
    depth, half = min(r, p - 1 - r), p // 2  # stages between this rank and its end of the pipeline
    near, far = (0, 1) if r < half else (1, 0)
    forwards, backwards = ([iter(range(m // 2)), iter(range(m // 2, m))] for _ in "FB")
    instructions: list[Do] = []
    owed = deque[Do]()

    def forward(chunk: int) -> None:
        instructions.append(Do("F", next(forwards[chunk]), chunk))

    def backward(chunk: int, kind: str = "B") -> None:
        instructions.append(Do(kind, next(backwards[chunk]), chunk))
        if kind == "I":
            owed.append(replace(instructions[-1], kind="W"))

    for _ in range(2 * (half - depth - 1)):
        forward(near)
    for _ in range(depth + 1):
        forward(near)
        forward(far)
    for _ in range(half - depth - 1):
        backward(far, "I")
        instructions.append(owed.popleft())
        forward(far)
    for _ in range(m // 2 - p + depth + 1):
        forward(near)
        backward(far)
        forward(far)
        backward(near)
    for _ in range(half - depth - 1):
        backward(far)
        forward(far)
        backward(near)
    for i in range(2 * (depth + 1)):
        backward((far, near)[i % 2], "B" if i <= depth else "I")
    for _ in range(half - depth - 1):
        instructions.append(owed.popleft())
        backward(near, "I")
    return instructions + list(owed)
