"""Checks of this lesson's exercises: hand-written traces, float64, the library's own run, and the ledger."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.receipt import plain
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks, outcome, smallest
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Optimizer, adam_step, clip_grad_norm
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.precision import OVERFLOW, DynamicScaler, StaticPolicy, StaticScaler, agree, next_scale, use
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

SEED, BATCHES, BAD, CLIP, S = 1, 10, 7, 1.0, 2.0**12  # the gradients of batch 7 overflow


# Exercises whose model solution is not in the library -----------------------------------------------------------------


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    """Update float16 weights in place by Adam. Return the new number of updates; t is the number before this one.

    data, grad (n), float16: the weights, and S times their gradient. master, m, v (n), float32: the weights and Adam's
    m and v. S: the loss scale. lr: the learning rate. clip: the largest norm; a gradient, without S, that is longer is
    shortened to it. If grad contains inf or NaN, skip the step and change nothing; otherwise grad may end with any
    values.
    """
    g = grad.astype(np.float32) / np.float32(S)
    if not np.isfinite(g).all():
        return t
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / length
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return t + 1


def bytes_a_parameter(half: bool, numbers: int) -> int:
    """Return the bytes per parameter held at the optimizer step: weight, gradient, optimizer state.

    half: weights and gradients are float16, and the optimizer keeps a float32 master; otherwise all is float32.
    numbers: the float32 values that the optimizer keeps per parameter, without the master: 0 for SGD, 1 for SGD with
    momentum, 2 for Adam; other optimizers may keep more.
    """
    return (2 + 2 + 4 if half else 4 + 4) + 4 * numbers


# Checks ---------------------------------------------------------------------------------------------------------------


def check_05_1(world: Communicator, next_scale: Callable[..., tuple[float, int]], report: Report) -> None:
    """Check batch after batch from the correct state, at the upper limit, and in the library's scaler."""
    for growth, backoff, interval in ((2.0, 0.5, 3), (4.0, 0.25, 2), (2.0, 0.5, 1)):
        scale, good = 2.0**16, 0
        for overflow in (x == "x" for x in "...xx..x...x....."):
            state = scale, good
            given = f"next_scale(2^{np.log2(scale):g}, {good}, {overflow}, {growth:g}, {backoff:g}, {interval})"
            got = next_scale(*state, overflow, growth, backoff, interval)
            if not report.true("pair", _is_pair(got), f"{given} returns {got!r}; it must return a tuple (scale, good)"):
                return
            scale, good = REFERENCE["next_scale"](*state, overflow, growth, backoff, interval)
            told = f"{given} returns ({got[0]:g}, {got[1]}); right is ({scale:g}, {good})"
            report.true("scale", got[0] == scale, told, float(got[0]))
            report.true("good", got[1] == good, told, got[1])
    for power in (126, 127):
        last, good = next_scale(2.0**power, 4, False, 2.0, 0.5, 5)
        given = f"next_scale(2^{power}, 4, False, 2, 0.5, 5)"
        told = f"{given} returns the scale {last:g}; right is 2^127, as float32 cannot hold 2^128"
        report.true("end", last == 2.0**127, told, float(last))
        told = f"{given} returns ({last:g}, {good}); the count must restart at 0"
        report.true("good at the end", good == 0, told, good)
    for power in (126, 127):
        last, _ = next_scale(1.5 * 2.0**power, 4, False, 2.0, 0.5, 5)
        given = f"next_scale(1.5 x 2^{power}, 4, False, 2, 0.5, 5)"
        told = f"{given} returns the scale {last:g}; right is 1.5 x 2^127, the largest that is reached"
        report.true("largest", last == 1.5 * 2.0**127, told, float(last))
    scaler = DynamicScaler(2.0**16, interval=3, floor=2.0**-20, rule=next_scale)
    script = "...xx..x....."
    for letter in script:
        scaler.update(letter == "x")
    told = f"in the library's scaler with interval 3, S is 2^{np.log2(scaler.value):g} after {script}; right is 2^15"
    report.true("inside", scaler.value == 2.0**15, told, scaler.value)
    if report.ok:
        agrees(report, next_scale, REFERENCE["next_scale"], SCALES, examples=200)


def _is_pair(got: Any) -> bool:
    return isinstance(got, tuple) and len(got) == 2 and all(isinstance(x, (int, float, np.number)) for x in got)


def check_05_2(world: Communicator, half_step: Callable[..., int], report: Report) -> None:
    """Compare updates with float64, many small ones too, and then on a model's gradients with the library."""
    scripted(half_step, report)
    data, m, v = np.ones(1, np.float16), np.zeros(1, np.float32), np.zeros(1, np.float32)
    master, t = data.astype(np.float32), 0
    for _ in range(1000):
        t = half_step(data, np.ones(1, np.float16), master, m, v, t, 1.0, 1e-4, 10.0)
    told = f"1000 updates of 1e-4 must take a weight from 1 to 0.9; data is {float(data[0]):g} after them"
    report.true("slow", abs(float(data[0]) - 0.9) < 1e-3, told, float(data[0]))
    tiny = np.float16(1e-4)
    data, master, m, v = np.ones(2, np.float16), *np.zeros((3, 2), np.float32)
    half_step(data, np.full(2, tiny), master, m, v, 0, 2.0**14, 0.01, 1.0)
    right = 0.1 * float(tiny) / 2**14
    told = f"grad is {tiny:.1e}, S is 2^14: grad / S is {10 * right:.2g}, so m must be {right:.2g}; it is"
    report.true("tiny", abs(m[0] - right) < 1e-4 * right, f"{told} {m[0]:.2g}", float(m[0]))
    data, master, m, v = np.ones(2, np.float16), *np.zeros((3, 2), np.float32)
    half_step(data, np.array([1, 0], np.float16), master, m, v, 0, 2.0**20, 0.01, 5e-7)
    told = (
        "grad is [1, 0], S is 2^20, clip is 5e-07: the clipped gradient is [5e-07, 0], so m must be [5e-08, 0]; it is"
    )
    report.true("short", abs(m[0] - 5e-8) < 5e-12, f"{told} [{m[0]:.2g}, {m[1]:g}]", float(m[0]))
    inside(half_step, report)
    if report.ok:
        drawn(half_step, report)


def drawn(half_step: Callable[..., int], report: Report) -> None:
    """Check drawn steps: first what must be equal to the bit, then the master and the moments."""

    def fails(given: tuple[Any, ...]) -> bool:
        return bool(mistake(half_step, given))

    given = smallest(STEPS, fails, 160)
    if given is not None:
        told = f"grad {given[1].tolist()}, S {given[6]:g}, t {given[5]}: {mistake(half_step, given)}"
        report.true("drawn step", False, told, told)
    else:
        agrees(report, half_step, REFERENCE["half_step"], STEPS, close=1e-5, scratch=(0, 1))


def mistake(half_step: Callable[..., int], given: tuple[Any, ...]) -> str:
    """Say what a step did wrong: to t, to data, or despite an overflow; "" if nothing."""
    got, t, finite = outcome(half_step, given), given[5], np.isfinite(given[1]).all()
    data, _, master, *_ = got.after
    if got.raised or got.value != t + finite:
        return f"half_step {got}; it must {'step' if finite else 'skip the step'} and return {t + finite}"
    if finite:
        right = master.astype(np.float16)
        same = data.tobytes() == right.tobytes()
        return "" if same else f"data is {data.tolist()}; the master, rounded to float16, is {right.tolist()}"
    for name, now, before in zip(("data", "grad", "master", "m", "v"), got.after, given, strict=False):
        if now.tobytes() != before.tobytes():
            return f"the step must be skipped, but {name} has changed from {before.tolist()} to {now.tolist()}"
    return ""


def scripted(half_step: Callable[..., int], report: Report) -> None:
    """Check long and short gradients, an inf and a NaN."""
    draw = np.random.default_rng(0).standard_normal
    master = draw(8).astype(np.float32)
    data, m, v = master.astype(np.float16), np.zeros(8, np.float32), np.zeros(8, np.float32)
    true, t = [a.astype(float) for a in (master, m, v)], 0
    for number in range(1, BATCHES + 1):
        grad = (draw(8) * 10.0 ** -(number % 5) * S).astype(np.float16)
        if number in (BAD, BAD + 1):
            grad[2] = np.inf if number == BAD else np.nan
        g = grad.astype(float) / S
        finite, length, before = bool(np.isfinite(g).all()), float(np.linalg.norm(g)), data.copy()
        told = f"batch {number}, S = {S:g}, the gradient's norm without S is {length:.2g}, clip {CLIP:g}"
        if finite:
            adam_step(true[0], g * min(1, CLIP / length), true[1], true[2], t + 1, 0.01, 0.9, 0.999, 1e-8)
        else:
            told = f"batch {number} has {grad[2]} in grad and must be skipped"
        got = half_step(data, grad, master, m, v, t, S, 0.01, CLIP)
        t += finite
        report.true("t", got == t, f"{told}: it returns {got}, not {t}", got)
        for name, array, right in zip(("master", "m", "v"), (master, m, v), true, strict=True):
            gap = float(np.abs(array - right).max() / np.abs(right).max())
            report.close(name, gap, 1e-5, f"{told}: {name} is {_nan(array)}wrong after the call; relative")
            array[...] = right
        right_data = true[0].astype(np.float32).astype(np.float16) if finite else before
        gap = float(np.abs(data.astype(float) - right_data).max())
        report.close("data", gap, 1e-3, f"{told}: data must be the master, rounded to float16")
        data[...] = right_data


def _nan(array: np.ndarray) -> str:
    return "" if np.isfinite(array).all() else "not finite, and "


def inside(half_step: Callable[..., int], report: Report) -> None:
    """Train an MLP in the library with Adam, S and clipping; give the same gradients to half_step."""
    adam, step = toy(world_of_one(), Adam, True)
    reducer, scaler = adam.reducer, StaticScaler(S)
    flat = lambda which: np.concatenate([getattr(owned, which) for owned in reducer.owned()])
    t, state = 0, ()
    for number in range(1, BATCHES + 1):
        step(number, scaler)
        if not state:
            data = flat("data")
            state = master, m, v = data.astype(np.float32), *np.zeros((2, len(data)), np.float32)
        if number == BAD:
            reducer.owned()[0].grad[1] = np.inf
        t = half_step(data, flat("grad"), master, m, v, t, S, 0.01, 0.2)
        if scaler.unscale(reducer):
            clip_grad_norm(reducer, 0.2)
            adam.step(0.01)
    right = np.concatenate([array for array in adam.masters if array is not None])
    gap = float(np.abs(master - right).max())
    told = f"an MLP, {BATCHES} batches, number {BAD} overflows: master differs from that of the library"
    report.close("inside", gap, 1e-5, told)


def check_05_3(world: Communicator, bytes_a_parameter: Callable[[bool, int], int], report: Report) -> None:
    """Compare the prediction with what the ledger finds alive after a step."""
    rules: list[Callable[..., Optimizer]] = [SGD, lambda reducer: SGD(reducer, momentum=0.9), Adam]
    for half, (numbers, make) in product((False, True), enumerate(rules)):
        with Ledger().open() as ledger:
            optimizer, step = toy(world_of_one(), make, half)
            step(1, StaticScaler(1))
            optimizer.step(0.01)
        n = sum(owned.data.size for owned in optimizer.reducer.owned())
        counted = sum(ledger.live[kind] for kind in ("parameters", "gradients", "optimizer")) // n
        said = bytes_a_parameter(half, numbers)
        given = f"half = {half}, numbers = {numbers}"
        told = f"{given}: you predict {said} bytes per parameter; the ledger counts {plain(counted)}"
        report.true("bytes", said == counted, told, said)
    for half, numbers in product((False, True), range(3, 9)) if report.ok else ():
        told = f"half = {half}, numbers = {numbers}: you predict {{got}} bytes per parameter; right is {{expected}}"
        report.equal("more numbers", bytes_a_parameter(half, numbers), REFERENCE["bytes"](half, numbers), told)


def check_05_4(world: Communicator, agree: Callable[[bool, Any], bool], report: Report) -> None:
    """Check every pattern of overflows and its bytes, a single rank, and an inf in one element on one rank."""
    ring, plain_ring = Watched(world), RingCommunicator(world)
    for pattern in product((False, True), repeat=world.size):
        with Ledger().open() as right:
            REFERENCE["agree"](pattern[world.rank], plain_ring)
        with Ledger().open() as ledger:
            got = agree(pattern[world.rank], ring)
        world.barrier()  # keeps messages of two patterns apart
        who = " and ".join(f"rank {rank}" for rank, overflow in enumerate(pattern) if overflow) or "no rank"
        told = f"{world.size} ranks, overflow on {who}: rank {world.rank} returns {got}, not {any(pattern)}"
        report.true(f"any {who}", got == any(pattern), told, got)
        sentence = "rank {rank} sent {got} bytes through its communicator; an all-reduce of one int32 sends {expected}"
        if not ledger.bytes.total():
            sentence += ". Only collectives of `world` count, not gather_objects, nor a library such as mpi4py itself"
        if report.equal("bytes", ledger.bytes.total(), right.bytes.total(), sentence):
            tags = ", ".join(map(repr, ledger.bytes))
            told = f"the bytes are labelled {tags}; the tag must be OVERFLOW, {OVERFLOW!r}"
            report.true("label", ledger.bytes == right.bytes, told)
    for overflow in (False, True):
        told = f"agree({overflow}, None), in a run of one process, must return {overflow}"
        report.true("alone", agree(overflow, None) == overflow, told)
    told = f"the all-reduced array has the type {', '.join(sorted(ring.types))}; the docstring asks for one int32"
    report.true("type", ring.types <= {"int32"}, told, told)
    if all(world.gather_objects(report.ok)):  # otherwise ranks might wait for each other
        one_element(world, ring, agree, report)
    if report.ok:
        agrees(report, agree, REFERENCE["agree"], st.tuples(st.booleans(), st.none()))
        agrees_on_ranks(report, agree, REFERENCE["agree"], OVERFLOWS, asked)


class Watched(RingCommunicator):
    """A communicator that records the dtypes of all-reduced arrays."""

    def __init__(self, world: Communicator) -> None:
        super().__init__(world)
        self.types: set[str] = set()

    def all_reduce(self, x: Any, *options: Any, **more: Any) -> None:
        """Record the dtype, then reduce."""
        self.types.add(str(getattr(x, "dtype", type(x).__name__)))
        super().all_reduce(x, *options, **more)


def asked(agree: Callable[[bool, Any], bool], world: Communicator, given: dict[str, list[int]]) -> bool:
    """Return one rank's answer."""
    return agree(world.rank in given["overflow on ranks"], world)


def one_element(world: Communicator, ring: Communicator, agree: Callable[[bool, Any], bool], report: Report) -> None:
    """Train with ZeRO, where each rank holds a shard of the gradients; batch 2 has an inf on the last rank."""
    optimizer, step = toy(ring, Adam, True)
    reducer, scaler = optimizer.reducer, DynamicScaler(S, agree=agree)
    for number in (1, 2, 3):
        step(number, scaler)
        if (number, world.rank) == (2, world.size - 1):
            reducer.owned()[0].grad[0] = np.inf
        answers = world.gather_objects(scaler.unscale(reducer))
        told = f"batch {number}: unscale returns {answers} on the ranks; it must return {number != 2} on all of them"
        if not report.true("together", answers == [number != 2] * world.size, told, str(answers)):
            return
        if answers[0]:
            optimizer.step(0.01)
            reducer.gather_parameters()
    bits = world.gather_objects({path: array.tobytes() for path, array in gather(reducer.model, world).items()})
    report.true("replicas", all(other == bits[0] for other in bits), "the parameters differ between ranks")


# Toy model ------------------------------------------------------------------------------------------------------------

REFERENCE: dict[str, Callable] = {
    "next_scale": next_scale,
    "half_step": half_step,
    "bytes": bytes_a_parameter,
    "agree": agree,
}

SCALES = st.builds(  # with all arguments, and with some left to their defaults
    lambda power, f, left, overflow, rest: (
        f * 2.0**power,
        max(0, (rest[2] if len(rest) == 3 else 2000) - 1 - left),
        overflow,
        *rest,
    ),
    st.sampled_from([16, 0, -1, -20, 24, 125, 126, 127]),
    st.sampled_from([1.0, 1.5, 1.25]),
    st.sampled_from([0, 1, 2, 2000]),
    st.booleans(),
    st.sampled_from([(2.0, 0.5, 1), (2.0, 0.25, 3), (4.0, 0.75, 5), (1.5, 0.5, 2), (4.0, 0.125), (1.5,), ()]),
)


def step_of(numbers: list[tuple[float, float, tuple[float, float]]], *rest: float) -> tuple[Any, ...]:
    """Return the arguments of half_step; data is not the rounded master."""
    grads, masters, moments = zip(*numbers, strict=True)
    data, grad = np.full(len(grads), 0.25, np.float16), np.array(grads, np.float16)
    return data, grad, np.array(masters, np.float32), *np.array(moments, np.float32).T.copy(), *rest


GRADIENTS = st.sampled_from([0.0, 1.0, -3.0, 2.0**-24, 6e4, -6e4, 0.1]) | st.sampled_from([np.inf, -np.inf, np.nan])
NUMBERS = st.tuples(
    GRADIENTS, st.sampled_from([0.0, 1.0, -0.3, 100.0]), st.sampled_from([(0.0, 0.0), (0.1, 0.02), (-0.2, 1.0)])
)
STEPS = st.builds(
    step_of,
    st.lists(NUMBERS, min_size=1, max_size=5),
    st.sampled_from([0, 1, 7, 1000]),
    st.sampled_from([1.0, 2.0**12, 2.0**16, 1000.0]),
    st.sampled_from([0.01, 0.1]),
    st.sampled_from([1.0, 0.2, 1e6]),
)
OVERFLOWS = st.builds(lambda ranks: {"overflow on ranks": sorted(ranks)}, st.sets(st.integers(0, 3)))


def toy(world: Communicator, make: Callable[..., Optimizer], half: bool) -> tuple[Any, Callable]:
    """Return (optimizer, a function that computes a batch's gradients) of a small MLP on synthetic samples."""
    draw = np.random.default_rng(0)
    data = ArrayLoader(draw.normal(size=(12, 8)).astype(np.float32), draw.integers(0, 3, 12), 6, SEED)
    model = mlp(MLPConfig(8, (6,), 3))
    if half:
        use(model, StaticPolicy("mixed_float16"), half_weights=True)
    strategy = Strategy(zero=2 if world.size > 1 else 0)
    reducer: Reducer = parallelize(model, Mesh(world, dp=world.size), strategy)
    reducer.init(SEED)

    def step(number: int, scaler: StaticScaler) -> None:
        with scaler.expecting():
            compute_gradients(model, data.batch(number).part(world.rank, world.size), reducer, 1, scaler)

    return make(reducer), step
