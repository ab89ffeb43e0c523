"""A model of the time of Megatron-LM's published runs, with two constants fitted to five of them.

Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", arXiv:2104.04473.
`fit` adjusts the constants to the odd rows of table 1, and `report` compares the other 17 rows of both tables with the
model. The model is a sum of times. It describes Megatron-LM, not this package.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from textwrap import fill

from .megatron_runs import DEEPSPEED, EVEN, FITTED, LATER, PREDICTED, TABLE2, TABLE2_ZERO3, Row, S, V
from .published import A100


@dataclass(frozen=True)
class Machine:
    """A GPU's rates: FLOP/s, and bytes/s of its memory, of its NVLink and of its network adapter, in one direction."""

    flops: float
    memory: float
    nvlink: float
    network: float


SHEET = Machine(A100, 2.0e12, 300e9, 25e9)  # data sheets: A100 of 80 GB (2.039e12, rounded), HDR InfiniBand


def reached(E: float, W: float, sheet: Machine = SHEET) -> Machine:
    """Return the rates reached: E of the FLOP/s on the data sheet, W of all three bandwidths."""
    return Machine(E * sheet.flops, W * sheet.memory, W * sheet.nvlink, W * sheet.network)


def layer_seconds(r: Row, g: Machine) -> float:
    """Return the seconds of a layer for a micro-batch: forward, its repetition, and backward, which takes two forwards.

    Attention's two products with s x s scores take the longer of computing and moving their bytes. The bytes of the
    elementwise operations are counted by hand, a kernel each, in half precision with masks of one byte. Megatron-LM
    fuses bias with GELU, bias with dropout and the residual sum, and scale and mask with softmax. The embedding, the
    loss and the gradients of sharded biases are not counted.

        bytes an element            forward, twice                      backward
        82 of b s h, replicated     2 (norm 4, dropout 7)               2 (norm 6, dropout 5, bias 2, residual sum 6)
        68 of b s h, over t         GELU 16, transpose 4                GELU 24, transpose 4
        29 of b a s^2, over t       softmax 4, dropout 5                softmax 6, dropout 5
    """
    a, h, t, b = r.a, r.h, r.t, r.b
    matmuls = 96 * b * S * h**2 / t / g.flops
    scores = max(2 * b * S**2 * h / t / g.flops, (2 * b * a * S**2 + 4 * b * S * h) / t / g.memory)
    elementwise = b * S * h * (82 + 68 / t + 29 * a * S / (h * t)) / g.memory
    accumulate = 6 * 12 * h**2 / t / g.memory  # to add a gradient in half precision: two reads and a write
    all_reduces = 6 * 2 * (t - 1) / t * activation(r) / g.nvlink  # 2 in forward, 2 in its repetition, 2 in backward
    return matmuls + 8 * scores + elementwise + accumulate + all_reduces  # 8: two products, four forwards' worth


def activation(r: Row) -> float:
    """Return the bytes of a micro-batch between two layers: 2 b s h."""
    return 2 * r.b * S * r.h


def pipeline_seconds(r: Row, g: Machine) -> tuple[float, float]:
    """Return the seconds of all micro-batches, and those of one on the last stage.

        m last + (p - 1) / v mean

    The last stage is the slowest: it has the logits, which are not repeated. mean: of a micro-batch on a stage.
    """
    x, t = activation(r), r.t
    sends = 2 * r.v * (x / t / g.network + x * (t - 1) / t / g.nvlink) if r.p > 1 else 0  # scatter, then all-gather
    layers = r.L / r.p * layer_seconds(r, g)
    logits = 6 * r.b * S * r.h * V / t / g.flops
    last, mean = layers + logits + sends, layers + logits / r.p + sends
    return r.m * last + (r.p - 1) / r.v * mean, last


def seconds(r: Row, g: Machine) -> float:
    """Return the seconds of an update: pipeline, data parallel, and Adam with unscaling and clipping.

    ZeRO-3 gathers all parameters twice for each micro-batch and reduces their gradients once, by a ring through the
    adapter of every GPU; this overlaps in full. Torch's DDP overlaps one ring all-reduce with the backward of the last
    micro-batch, 3/4 of its time with the repetition. Megatron-LM's own does not overlap.
    """
    pipeline, last = pipeline_seconds(r, g)
    ring = 2 * r.parameters / (r.t * r.p) * (r.d - 1) / r.d / g.network  # half of an all-reduce, in half precision
    adam = 40 * r.parameters / (r.t * r.p) / g.memory  # about 40 bytes a parameter
    if r.kind == "zero3":
        return max(pipeline, 3 * ring * r.m) + adam / r.d
    hidden = 3 / 4 * last if r.kind == "overlapped" else 0
    return pipeline + max(0, 2 * ring - hidden) + adam


def rate(r: Row, g: Machine) -> float:
    """Return the predicted TFLOP/s of a GPU."""
    return r.flops / r.gpus / seconds(r, g) / 1e12


# The fit --------------------------------------------------------------------------------------------------------------


def fit(rows: Sequence[Row], sheet: Machine = SHEET) -> tuple[float, float]:
    """Return the E and W, at most 1, with the least squares of log(predicted rate / measured rate)."""
    W = minimum(lambda W: rms(rows, reached(fit_flops(rows, W, sheet), W, sheet)))
    return fit_flops(rows, W, sheet), W


def fit_flops(rows: Sequence[Row], W: float, sheet: Machine = SHEET) -> float:
    """Return the E that fits best for a given W."""
    return minimum(lambda E: rms(rows, reached(E, W, sheet)))


def rms(rows: Sequence[Row], g: Machine) -> float:
    """Return the root of the mean square of log(predicted rate / measured rate)."""
    return math.sqrt(sum(math.log(rate(r, g) / r.measured) ** 2 for r in rows) / len(rows))


def minimum(f: Callable[[float], float], low: float = 0.1, high: float = 1.0) -> float:
    """Return, to 1e-6, where f is least in the interval, by golden-section search: f falls there and then rises."""
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if f(left) < f(right) else (left, high)
    return (low + high) / 2


# The report -----------------------------------------------------------------------------------------------------------

GROUPS = {
    "table 1, odd rows (fitted)": FITTED,
    "table 1, even rows": EVEN,
    "table 2, Megatron-LM": TABLE2,
    "table 2, ZeRO-3": TABLE2_ZERO3,
    "the 17 predicted": PREDICTED,
    "all 22": (*FITTED, *PREDICTED),
}


def time_error(r: Row, predicted: float) -> float:
    """Return (predicted time / measured time - 1) in percent, given the predicted rate in TFLOP/s."""
    return 100 * (r.measured / predicted - 1)


def mean_error(rows: Sequence[Row], g: Machine) -> float:
    """Return the mean of |`time_error`|, in percent."""
    return sum(abs(time_error(r, rate(r, g))) for r in rows) / len(rows)


def constant_error(rows: Sequence[Row], constant: float) -> float:
    """Return the mean of |`time_error`|, in percent, if the prediction is the same rate for all rows, in TFLOP/s."""
    return sum(abs(time_error(r, constant)) for r in rows) / len(rows)


def constant_rate(rows: Sequence[Row]) -> float:
    """Return the one rate in TFLOP/s that fits all of these rows best: the geometric mean of the measured ones."""
    return math.exp(sum(math.log(r.measured) for r in rows) / len(rows))


def report() -> str:
    """Return, in at most 100 columns, all runs as measured and predicted, the mean errors, and what they rest on.

    The last column is the error of a constant rate, fitted to the same rows.
    """
    E, W = fit(FITTED)
    g, constant = reached(E, W), constant_rate(FITTED)
    lines = [
        "Megatron-LM's runs, arXiv:2104.04473: TFLOP/s of a GPU, and the error of the predicted time in %",
        f"{'':28}{'GPUs':>6}{'measured':>11}{'predicted':>11}{'error':>10}{'constant rate':>18}",
    ]
    for group in list(GROUPS)[:4]:
        lines.append(group)
        for r in GROUPS[group]:
            x = rate(r, g)
            numbers = f"{r.gpus:6}{r.measured:11}{x:11.1f}{time_error(r, x):+10.1f}{time_error(r, constant):+18.1f}"
            lines.append(f"  {r.name:26}{numbers}")
    lines.append("mean of |error|")
    for group, rows in GROUPS.items():
        lines.append(f"  {group:54}{mean_error(rows, g):10.1f}{constant_error(rows, constant):18.1f}")
    return "\n".join([*lines, *(fill(text, 100, subsequent_indent="  ") for text in remarks(E, W))])


def remarks(E: float, W: float) -> list[str]:
    """Return what the fit of E and W determines, what is assumed, and how other runs compare, all computed anew."""
    g, eight = reached(E, W), reached(E, W, replace(SHEET, network=8 * SHEET.network))
    zero, plain = TABLE2_ZERO3, [replace(r, v=1) for r in TABLE2]
    big = [time_error(r, rate(r, g)) for r in zero if r.b == 4]
    later, other = ([100 * (seconds(r, g) / t - 1) for r, t in runs] for runs in (LATER, DEEPSPEED))
    return [
        *remarks_on_fit(E, W),
        f"- So ZeRO-3's rows test one number, {g.network / 1e9:.1f} GB/s of a GPU's own network adapter. If a host's "
        f"eight adapters carry one ring together, they err by {mean_error(zero, eight):.0f}%.",
        "- Assumed: ZeRO-3 overlaps in full. With micro-batches of 4, computing takes nearly as long as sending, and "
        f"the predicted time errs by {big[0]:+.0f} and {big[1]:+.0f}%.",
        "- Assumed: 4 and 3 chunks in table 2, which does not print them. With 1, the Megatron-LM rows err by "
        f"{mean_error(plain, g):.1f}% instead of {mean_error(TABLE2, g):.1f}%.",
        f"- Elsewhere: the times of four later runs (arXiv:2205.05198, all recomputed) err by {min(later):+.0f} to "
        f"{max(later):+.0f}%; those of three with DeepSpeed's pipeline (arXiv:2201.11990) by {max(other):+.0f} to "
        f"{min(other):+.0f}%.",
    ]


def remarks_on_fit(E: float, W: float) -> list[str]:
    """Return how well the fitted rows determine E and W, and that they say little of the network."""
    g, free = reached(E, W), replace(SHEET, network=math.inf)
    unbound = reached(*fit(FITTED, free), free)
    others = [fit([r for r in FITTED if r is not out]) for out in FITTED]
    (e0, *_, e1), (w0, *_, w1) = (sorted(each) for each in zip(*others, strict=True))
    near = [100 * rms(FITTED, reached(fit_flops(FITTED, w), w)) for w in (W - 0.05, W + 0.05)]
    return [
        f"- Fitted: E = {E:.3f} of the peak FLOP/s, W = {W:.3f} of each bandwidth. Without one of the five rows, E is "
        f"{e0:.3f} to {e1:.3f} and W {w0:.3f} to {w1:.3f}. With W 0.05 lower or higher, the rows' rms error is "
        f"{near[0]:.1f} or {near[1]:.1f}% instead of {100 * rms(FITTED, g):.1f}%: a shallow minimum.",
        "- Assumed: memory, NVLink and network reach the same share W. The fitted rows say little of the network: if "
        f"it is infinitely fast they fit better ({mean_error(FITTED, unbound):.1f}% instead of "
        f"{mean_error(FITTED, g):.1f}%), but ZeRO-3's rows then err by {mean_error(TABLE2_ZERO3, unbound):.0f}%.",
    ]
