"""Checks of this lesson's exercises: float64 sums over all past gradients, the library's runs, and the ledger."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.receipt import plain
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import Adam, AdamW, Optimizer, adam_step, adamw_step
from minitrain.parallel.parallelize import parallelize
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step

from .lesson import descend, step_sizes

SEED, STEPS, N = 1, 6, 7
SETTINGS = ((0.01, 0.9, 0.999, 1e-8), (0.1, 0.5, 0.75, 0.1))  # lr, beta1, beta2, epsilon: large enough to show


def adam_bytes(sizes: tuple[int, ...]) -> int:
    """Return the bytes of optimizer state that Adam keeps for a float32 MLP with these layer sizes.

    (64, 32, 10): 64 pixels, 32 hidden values, 10 logits; other sizes are tested too. Adjacent sizes are joined by a
    layer y = x W + b.
    """
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 2 * 4 * parameters


# Checks ---------------------------------------------------------------------------------------------------------------


def check_02_1(world: Communicator, adam_step: Callable[..., None], report: Report) -> None:
    """Check Adam's update against the formula, its two properties, and its use inside the library."""
    for lr, beta1, beta2, epsilon in SETTINGS:
        follows(adam_step, (lr, beta1, beta2, epsilon), 0.0, report)
    if not report.ok:  # the library refuses a rule that changes no weight
        return
    g = np.array([1e-3, -1e-3, 1.0, -50.0, 1e5])
    w, m, v = np.zeros((3, len(g)))
    adam_step(w, g, m, v, 1, 0.01, 0.9, 0.999, 0.0)
    wrong = float(np.abs(w + 0.01 * np.sign(g)).max())
    report.close("first", wrong, 1e-12, f"with epsilon 0 the first step must be -lr sign(g), but is {w / 0.01} x lr")
    quiet, loud = (descend(lambda at: Adam(at, epsilon=0, rule=adam_step), 0.01, 200, scale)[0] for scale in (1, 1024))
    gap = float(np.abs(quiet - loud).max())
    same = np.array_equal(quiet, loud)
    report.true(
        "scale", same, f"with epsilon 0, 1024 times the loss must give the same bits: difference {gap:.1e}", gap
    )
    inside(world, lambda reducer, rule: Adam(reducer, rule=rule), adam_step, REFERENCE["adam"], report)
    for dtype, close in CLOSE.items():
        if report.ok:
            agrees(report, adam_step, REFERENCE["adam"], updates(dtype), close, run=only_in_place)


def check_02_2(world: Communicator, adamw_step: Callable[..., None], report: Report) -> None:
    """Check AdamW's update against the formula, without a gradient, and inside the library."""

    def rule(*arguments: object) -> None:
        adamw_step(*arguments, adam=REFERENCE["adam"])

    w, g, m, v = np.array([1.0, -2.0, 4.0]), *np.zeros((3, 3))
    for t in (1, 2, 3):
        rule(w, g, m, v, t, 0.1, 0.9, 0.999, 1e-8, 0.5)
    kept = float(w[0])
    sentence = (
        f"after 3 updates with gradient 0, lr 0.1, weight_decay 0.5, a weight of 1 must be 0.95^3, not {kept:.6g}"
    )
    report.close("shrinks", abs(kept - 0.95**3), 1e-12, sentence)
    for weight_decay in (0.5, 0.0):
        calls = recorded(adamw_step, *np.ones((4, 1)), 1, 0.1, 0.9, 0.999, 1e-8, weight_decay)["the calls of adam"]
        told = f"an update with weight_decay {weight_decay} calls `adam` {len(calls)} times; it must call it once"
        report.true(f"calls with weight_decay {weight_decay}", len(calls) == 1, told, len(calls))
    for setting in SETTINGS:
        for weight_decay in (0.5, 0.0):
            follows(lambda *a, weight_decay=weight_decay: rule(*a, weight_decay), setting, weight_decay, report)
    if not report.ok:
        return
    inside(world, lambda reducer, rule: AdamW(reducer, weight_decay=0.5, rule=rule), rule, REFERENCE["adamw"], report)
    for dtype, close in CLOSE.items():
        if report.ok:
            decaying = st.tuples(updates(dtype), st.sampled_from((0.0, 0.5, 0.01, 20.0))).map(lambda u: (*u[0], u[1]))
            agrees(report, adamw_step, REFERENCE["adamw"], decaying, close, run=recorded)


def check_02_3(world: Communicator, adam_bytes: Callable[[tuple[int, ...]], int], report: Report) -> None:
    """Compare the prediction with the bytes that the ledger counts after a step."""
    for sizes in ((64, 32, 10), (5, 3), (7, 20, 30, 2)):
        ledger = Ledger()
        with ledger.open():
            kept = train(world, Adam, MLPConfig(sizes[0], sizes[1:-1], sizes[-1]), 1)
        counted = ledger.live["optimizer"]
        said = adam_bytes(sizes)
        sentence = f"an MLP of sizes {sizes}: you return {plain(said)} bytes, the ledger counts {plain(counted)}"
        report.true("bytes", said == counted, sentence, said)
        del kept
    if report.ok:
        drawn = st.lists(st.integers(1, 5), min_size=2, max_size=7).map(lambda sizes: (tuple(sizes),))
        agrees(report, adam_bytes, REFERENCE["bytes"], drawn)


def check_02_4(world: Communicator, step_sizes: Callable[..., np.ndarray], report: Report) -> None:
    """Check the step sizes for small and large gradients, early and late, and inside the library with a small loss."""
    lr, beta1, beta2, epsilon = SETTINGS[0]
    for root in (1e-10, 1e-6, 1.0, 1e3):
        for t in (1, 10, 10000):
            v = np.array([root**2])
            before = v.copy()
            got = float(np.asarray(step_sizes(v, t, lr, beta1, beta2, epsilon)).reshape(-1)[0])
            true = lr / (1 - beta1**t) / (root / (1 - beta2**t) ** 0.5 + epsilon)
            told = (
                f"v = {root**2:.0e}, t = {t}, lr {lr}, beta1 {beta1}, beta2 {beta2}, epsilon {epsilon:.0e}: the step "
                f"size must be {true:.4g}, not {got:.4g}; relative"
            )
            report.close("value", abs(got - true) / true, 1e-12, told)
            report.true("v", np.array_equal(v, before), "v is Adam's state: step_sizes must not change it", float(v[0]))

    def rule(w, g, m, v, t, lr, beta1, beta2, epsilon) -> None:  # type: ignore[no-untyped-def]
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g * g - v)
        w -= step_sizes(v, t, lr, beta1, beta2, epsilon) * m

    if not report.ok:
        return
    for scale in (1.0, 1e-9):
        (mine, _), (true, _) = (
            descend(lambda at, by=by: Adam(at, rule=by), lr, 50, scale) for by in (rule, REFERENCE["adam"])
        )
        told = f"Adam with these step sizes, in a valley with {scale:g} times the loss, has a wrong w after 50 updates"
        report.close("inside", float(np.abs(mine - true).max()), 1e-9, told)
    if report.ok:
        settings = updates("float64").map(lambda update: update[3:])
        agrees(report, step_sizes, REFERENCE["sizes"], settings, CLOSE["float64"])


# Reference ------------------------------------------------------------------------------------------------------------

Rule = Callable[..., None]
REFERENCE: dict[str, Callable] = {"adam": adam_step, "adamw": adamw_step, "bytes": adam_bytes, "sizes": step_sizes}
CLOSE = {"float64": 1e-11, "float32": 1e-5}
NUMBERS, SQUARES = st.sampled_from((0.0, 1.0, -1.0, 0.5, -3.0)), st.sampled_from((0.0, 1.0, 0.25))


def updates(dtype: str) -> st.SearchStrategy[tuple]:
    """Return arguments of adam_step: zero gradients among others, no elements at all, early and late updates."""

    def arguments(elements: list[tuple[float, ...]], scale: float, *setting: float) -> tuple:
        w, g, m, v = np.reshape(elements, (-1, 4)).T.astype(dtype)
        return w, g * scale, m * scale, v * scale**2, *setting

    elements = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, SQUARES), max_size=3)
    of = st.sampled_from
    setting = (
        of((1, 2, 3, 10, 100, 1001, 10**6)),
        of((0.1, 0.01, 1.0, 0.0)),
        of((0.9, 0.5, 0.0)),
        of((0.999, 0.75, 0.0)),
    )
    return st.builds(arguments, elements, of((1.0, 1e-4, 1e3)), *setting, of((1e-8, 1e-3, 0.1)))


def only_in_place(rule: Rule, *arguments: object) -> None:
    """Call the rule. Ignore what it returns."""
    rule(*arguments)


def recorded(adamw: Rule, *arguments: object) -> dict[str, list[tuple]]:
    """Call the rule, and return the arguments of its calls of `adam`."""
    calls: list[tuple] = []

    def adam(w, g, m, v, t, lr, beta1, beta2, epsilon):  # type: ignore[no-untyped-def]
        calls.append((g.copy(), m.copy(), v.copy(), t, lr, beta1, beta2, epsilon))
        REFERENCE["adam"](w, g, m, v, t, lr, beta1, beta2, epsilon)

    adamw(*arguments, adam=adam)
    return {"the calls of adam": calls}


def follows(rule: Rule, setting: tuple[float, ...], weight_decay: float, report: Report) -> None:
    """Check STEPS updates of flat slices, guarded by neighbours, against float64 sums over all past gradients."""
    lr, beta1, beta2, epsilon = setting
    draw = np.random.default_rng(0).standard_normal
    arrays = [draw(N + 2), *np.zeros((3, N + 2))]
    for array in arrays[1:]:
        array[[0, -1]] = 9  # neighbours in the flat array, which must not change
    w, g, m, v = (array[1:-1] for array in arrays)
    true, past, told = w.copy(), [], f"lr {lr}, beta1 {beta1}, beta2 {beta2}, epsilon {epsilon:g}"
    told += f", weight_decay {weight_decay}" if weight_decay else ""
    for t in range(1, STEPS + 1):
        past.append(draw(N))
        g[...] = past[-1]
        rule(w, g, m, v, t, *setting)
        ages = np.arange(t)[::-1, None]
        mean = ((1 - beta1) * beta1**ages * np.array(past)).sum(axis=0)
        square = ((1 - beta2) * beta2**ages * np.array(past) ** 2).sum(axis=0)
        step = lr * mean / (1 - beta1**t) / (np.sqrt(square / (1 - beta2**t)) + epsilon)
        if t == 1 and not report.true("in place", m.any(), _NOT_IN_PLACE):
            return
        true -= lr * weight_decay * true + step
        report.true("gradient", np.array_equal(g, past[-1]), "the rule must not change the gradient")
        for name, array, right in (("m", m, mean), ("v", v, square), ("w", w, true)):
            gap = float(np.abs(array - right).max())
            what = "NaN (0 / 0, or the root of a negative number)" if np.isnan(gap) else "wrong"
            report.close(name, gap, 1e-12, f"{name} is {what} after update t = {t} ({told})")
    border = [array[i] for array in arrays[1:] for i in (0, -1)]
    report.true("border", border == [9.0] * 6, "elements outside the given slices were changed")


_NOT_IN_PLACE = (
    "m is still 0 after an update: change the given arrays in place (m *= beta1; m = beta1 * m only gives the name m "
    "to a new array)"
)


def inside(world: Communicator, make: Callable[..., Optimizer], rule: Rule, reference: Rule, report: Report) -> None:
    """Compare three float64 steps of a small MLP: the library's optimizer with this rule and with its own."""
    config = MLPConfig(5, (4,), 3, dtype="float64")
    mine, true = (
        gather(train(world, lambda reducer, by=by: make(reducer, by), config, 3)[0], world) for by in (rule, reference)
    )
    gap = max(float(np.abs(mine[path] - true[path]).max()) for path in true)
    report.close("inside", gap, 1e-12, "an MLP trained for 3 steps in the library has wrong parameters")


def train(world: Communicator, make: Callable[..., Optimizer], config: MLPConfig, steps: int):  # type: ignore[no-untyped-def]
    """Return the model and its optimizer after `steps` updates on synthetic samples."""
    draw = np.random.default_rng(0)
    inputs, labels = draw.normal(size=(12, config.inputs)), draw.integers(0, config.classes, 12)
    data = ArrayLoader(inputs.astype(config.dtype), labels, 12, SEED)
    model = mlp(config)
    reducer = parallelize(model, Mesh(world, dp=world.size))
    reducer.init(SEED)
    optimizer = make(reducer)
    for number in range(steps):
        train_step(model, data.batch(number), reducer, optimizer, 0.05)
    return model, optimizer
