"""Mixed precision on one process: the dtype of every array, the loss scale compared with its table and PyTorch, what a
skipped batch leaves unchanged, bytes, and training that matches float32. For many ranks, see tests/parallel/."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minitrain import fused
from minitrain.autograd import Node, youngest_first
from minitrain.backend import square
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Module, Parameter, watching
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, AdamW, Optimizer, Owned
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import Reducer, require
from minitrain.precision import (
    CASTS,
    DTYPES,
    GIVEN,
    HALF,
    POLICIES,
    DynamicPolicy,
    DynamicScaler,
    Precision,
    Scaler,
    StaticPolicy,
    StaticScaler,
    all_finite,
    first_bad_layer,
    next_scale,
    not_finite,
    use,
)
from minitrain.tensor import Tensor
from minitrain.train.step import compute_gradients, train_step
from tests.gradcheck import close
from tests.tiers import full as later

HALVES = ("float16", "bfloat16")
MIXED = {half: name for name, half in POLICIES.items() if half in HALVES}  # dtype -> the policy named after it
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # spacing of numbers at 1: a rounding is off by at most half of it
SEED = 1
B, T, V, D, H, L = 3, 5, 11, 8, 2, 2  # of the small GPT
BLOWN = 2.0**20  # a weight times this overflows float16 activations (65504), but not float32
half_of = pytest.mark.parametrize("half", HALVES)


def small_gpt(**options: Any) -> Model:
    return gpt(GPTConfig(**{"vocabulary": V, "context": T, "layers": L, "heads": H, "width": D, "std": 0.3, **options}))


def small_mlp() -> Model:
    return mlp(MLPConfig(inputs=5, hidden=(6, 7), classes=3))


def ids(number: int = 0) -> Batch:
    """Return tokens and labels as separate arrays, not views."""
    draw = np.random.default_rng(number)
    where = Where(SEED, number, B, T, slice(0, B), slice(0, T))
    return Batch(draw.integers(0, V, (B, T)), draw.integers(0, V, (B, T)), where)


def rows(number: int = 0) -> Batch:
    draw = np.random.default_rng(number)
    where = Where(SEED, number, 9, 1, slice(0, 9), slice(0, 1))
    return Batch(draw.standard_normal((9, 5)).astype(np.float32), draw.integers(0, 3, 9), where)


MODELS: dict[str, tuple[Callable[[], Model], Callable[..., Batch]]] = {
    "gpt": (small_gpt, ids),
    "untied gpt": (partial(small_gpt, tied=False), ids),
    "gpt with dropout": (partial(small_gpt, dropout=0.2), ids),
    "mlp": (small_mlp, rows),
}
model_of = pytest.mark.parametrize(("make", "batch"), MODELS.values(), ids=MODELS)


def divided(model: Model, seed: int = SEED) -> Reducer:
    """Return a reducer for the model's gradients, with initialized values."""
    reducer = parallelize(model, Mesh(world_of_one(), dp=1))
    reducer.init(seed)
    return reducer


@dataclass
class Run:
    """A model trained on given batches."""

    model: Model
    reducer: Reducer
    optimizer: Optimizer
    scaler: Scaler
    lr: float = 0.1
    clip: float | None = None
    accumulate: int = 1

    def step(self, batch: Batch) -> tuple[float, float]:
        return train_step(
            self.model, batch, self.reducer, self.optimizer, self.lr, self.accumulate, self.clip, self.scaler
        )

    def arrays(self) -> list[np.ndarray]:
        """Return everything that an update changes."""
        states = [array for state in self.optimizer.state for array in state]
        masters = [master for master in self.optimizer.masters if master is not None]
        return [*(require(bucket.data) for bucket in self.reducer.trained), *masters, *states]

    def bits(self) -> list[bytes]:
        return [array.tobytes() for array in self.arrays()]


def run(
    model: Model,
    precision: Precision | None = None,
    half_weights: bool = False,
    scaler: Scaler | None = None,
    optimizer: Callable[[Reducer], Optimizer] = Adam,
    **options: Any,
) -> Run:
    if precision is not None:
        use(model, precision, half_weights)
    reducer = divided(model)
    return Run(model, reducer, optimizer(reducer), scaler or Scaler(), **options)


def close_to(a: float, b: float, within: float) -> bool:
    return abs(a - b) <= within * abs(b)


# The scale ------------------------------------------------------------------------------------------------------------


def slices(value: float = 1.0) -> Any:
    """Return gradients of two slices, like a reducer's. `value` is the last element of the second."""
    pieces = [Owned(np.zeros(n, np.float32), np.ones(n, np.float32), False) for n in (3, 2)]
    pieces[1].grad[-1] = value
    return SimpleNamespace(owned=lambda: pieces, world=None, factor=1.0)


# growth 2, backoff 1/2, interval 3, floor 256; x: overflow. S for the next batch, number of good batches in a row
TABLE = [
    (".", 1024, 1), (".", 1024, 2), (".", 2048, 0), ("x", 1024, 0), (".", 1024, 1), (".", 1024, 2), ("x", 512, 0),
    ("x", 256, 0), ("x", 256, 0), (".", 256, 1), (".", 256, 2), (".", 512, 0), (".", 512, 1), ("x", 256, 0),
    (".", 256, 1), (".", 256, 2), (".", 512, 0),
]  # fmt: skip


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_the_scale_follows_the_table(bad: float) -> None:
    scaler = DynamicScaler(1024.0, interval=3, floor=256.0)
    for number, (letter, value, good) in enumerate(TABLE):
        reducer, before = slices(bad if letter == "x" else 1.0), scaler.value
        assert scaler.unscale(reducer) == (letter == ".")
        assert reducer.factor == 1 / before, "the gradients were multiplied by the scale that the batch had"
        assert (scaler.value, scaler.good) == (value, good), f"after batch {number}"
        assert scaler.at_floor() == (value == 256)
    assert scaler.skips == sum(letter == "x" for letter, _, _ in TABLE)


def test_the_rule() -> None:
    """The same table except the floor, which the rule does not handle. The rule is an argument."""
    value, good = 1024.0, 0
    for letter, after, count in TABLE[:8]:
        value, good = next_scale(value, good, letter == "x", interval=3)
        assert (value, good) == (after, count)
    asked: list[tuple[Any, ...]] = []

    def rule(*arguments: Any) -> tuple[float, int]:
        asked.append(arguments)
        return 0.25, 7

    scaler = DynamicScaler(8.0, 4.0, 0.125, 5, 0.5, rule=rule)
    scaler.unscale(slices())
    assert asked == [(8.0, 0, False, 4.0, 0.125, 5)]
    assert (scaler.value, scaler.good) == (0.5, 7), "never below the floor"


@pytest.mark.parametrize(
    ("value", "growth", "backoff", "interval", "length"),
    [
        (2.0**16, 2.0, 0.5, 3, 60),
        (1000.0, 1.5, 0.25, 2, 30),
        (2.0**125, 2.0, 0.5, 1, 30),  # up to the end of float32's range
        (2.0**120, 16.0, 0.5, 1, 30),
        (65536.0, 2.0, 0.5, 2000, 40),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_scale_is_that_of_pytorch(
    value: float, growth: float, backoff: float, interval: int, length: int, seed: int
) -> None:
    """Compare which batches step, the scale after each, and the gradients that the optimizer sees."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    theirs = torch.amp.GradScaler(
        "cpu", init_scale=value, growth_factor=growth, backoff_factor=backoff, growth_interval=interval
    )
    ours = DynamicScaler(value, growth, backoff, interval, floor=2.0**-100)
    weight = torch.zeros(4, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=1.0)
    for bad in np.random.default_rng(seed).random(length) < 0.3:
        scaled = np.array([1, 2, -3, math.inf if bad else 4], np.float32)
        assert close_to(ours.value, theirs.scale(torch.ones(())).item(), 1e-6)
        weight.grad, before = torch.tensor(scaled), weight.detach().clone()
        theirs.unscale_(sgd)
        theirs.step(sgd)
        theirs.update()
        piece = Owned(np.zeros(4, np.float32), scaled, False)
        reducer: Any = SimpleNamespace(owned=lambda piece=piece: [piece], world=None, factor=1.0)
        stepped = ours.unscale(reducer)
        assert stepped == (not torch.equal(weight, before)) == (not bad)
        if stepped:
            seen = SGD(reducer).gradient(scaled, np.dtype(np.float32))
            np.testing.assert_allclose(seen, weight.grad.numpy(), rtol=1e-6)
        assert close_to(ours.value, theirs.get_scale(), 1e-6)


def test_the_table_has_a_row_for_each_operation_that_a_model_asks_about() -> None:
    """A row under another name would do nothing, and one that is missing leaves the input as it is."""
    asked = set()

    class Asked(DynamicPolicy):
        def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
            asked.add(operation)
            return super().choose(path, operation, given)

    model = gpt(GPTConfig(vocabulary=5, context=3, layers=1, heads=1, width=4))
    use(model, Asked())
    model.init(seed=1)
    ids = np.array([[0, 1, 2]])
    model(Batch(ids, ids, Where(1, 0, 1, 3, slice(0, 1), slice(0, 3))))
    assert asked == CASTS.keys()


def test_the_defaults() -> None:
    """The loss scale's are those of PyTorch's GradScaler; its floor and its patience are ours."""
    dynamic, constant, layers = DynamicScaler(), StaticScaler(), DynamicPolicy()
    told = (dynamic.value, dynamic.growth, dynamic.backoff, dynamic.interval, dynamic.floor, dynamic.patience)
    assert told == (2**16, 2.0, 0.5, 2000, 1.0, 20)
    assert next_scale(8.0, 1998, False) == (8.0, 1999) and next_scale(8.0, 1999, False) == (16.0, 0)
    assert (constant.value, constant.patience) == (2**12, 20)
    assert (layers.half, layers.casts, layers.patience, layers.rest) == (DTYPES["float16"], CASTS, 3, 500)
    use(model := mlp(MLPConfig()), StaticPolicy("mixed_float16"))
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("growth", [2.0, 1.5, 1e30])
def test_the_scale_stays_below_the_end_of_float32(growth: float) -> None:
    """The scale multiplies a float32 loss."""
    scaler = DynamicScaler(2.0**120, growth, interval=1)
    for _ in range(40):
        scaler.unscale(slices())
        scaled = scaler.scale(Tensor(np.float32(1)))
        assert scaled.dtype == np.float32 and scaled.item() == np.float32(scaler.value) < np.inf
    assert scaler.value * growth >= 2.0**128, "it has grown as far as it can"


def test_the_error_at_the_floor() -> None:
    """Raised after `patience` batches in a row at the smallest scale. Overflows on the way down do not count."""
    scaler = DynamicScaler(8.0, floor=2.0, patience=3)
    for value in (4.0, 2.0, 2.0, 2.0):
        assert not scaler.unscale(slices(math.inf))
        assert scaler.value == value
    assert scaler.unscale(slices())  # a good batch resets the count
    for _ in range(2):
        assert not scaler.unscale(slices(math.inf))
    with pytest.raises(UserError, match=r"^3 batches in a row .* scale 2: give a smaller scale .*bfloat16.*float32"):
        scaler.unscale(slices(math.inf))
    assert scaler.skips == 7


def test_the_error_of_a_constant_scale() -> None:
    scaler = StaticScaler(4096.0, patience=2)
    for value in (math.inf, 1.0, math.nan):
        assert scaler.unscale(slices(value)) == (value == 1)
    with pytest.raises(UserError, match=r"^2 batches in a row .* scale 4096: give a smaller scale or learning rate"):
        scaler.unscale(slices(math.inf))
    assert scaler.value == 4096 and scaler.skips == 3


def test_without_a_scale() -> None:
    """Nothing is checked or multiplied."""
    reducer, loss = slices(math.inf), Tensor(np.float32(3))
    scaler = Scaler()
    assert scaler.scale(loss) is loss and scaler.unscale(reducer)
    assert (scaler.value, scaler.skips, reducer.factor) == (1.0, 0, 1.0)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: StaticScaler(0.0), "the loss scale is 0"),
        (lambda: StaticScaler(2.0, patience=0), "patience is 0"),
        (lambda: DynamicScaler(growth=-1.0), "growth is -1"),
        (lambda: DynamicScaler(backoff=0.0), "backoff is 0"),
        (lambda: DynamicScaler(floor=0.0), "floor is 0"),
        (lambda: DynamicScaler(interval=0), "interval is 0"),
        (lambda: DynamicPolicy("float32"), "half is 'float32'"),
        (lambda: DynamicPolicy(casts={"linear": "float8"}), "the cast of linear is 'float8'"),
        (lambda: DynamicPolicy(patience=-1), "patience is -1"),
        (lambda: DynamicPolicy(rest=0), "rest is 0"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}[.;,]"):
        make()


def test_a_precision_of_ones_own_has_to_choose() -> None:
    with pytest.raises(NotImplementedError):
        Precision().dtype("blocks.0", "linear", np.float32)


@pytest.mark.parametrize(
    "wrong", [{"growth": 1.0}, {"backoff": 1.0}, {"floor": 4.0, "value": 2.0}], ids=lambda wrong: next(iter(wrong))
)
def test_a_scale_that_cannot_move(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="growth must be above 1, backoff below 1, and the floor at most"):
        DynamicScaler(**wrong)


# A power of two changes no bit ----------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Reducer], Optimizer]] = {
    "sgd": partial(SGD, momentum=0.9, weight_decay=0.1),
    "adam": Adam,
    "adamw": AdamW,
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_power_of_two_changes_no_bit(optimizer: Any, clip: float | None) -> None:
    """In float32: losses, norms, weights, optimizer state. (1000 is not a power of two and changes some.)"""

    def story(scaler: Scaler) -> tuple[list[tuple[float, float]], list[bytes]]:
        one = run(small_gpt(dropout=0.2), None, scaler=scaler, optimizer=optimizer, clip=clip, accumulate=2)
        return [one.step(ids(number)) for number in range(6)], one.bits()

    plain = story(Scaler())
    assert clip is None or min(norm for _, norm in plain[0]) > clip, "it is to be clipped"
    moving = DynamicScaler(64.0, interval=2)
    for scaler in (StaticScaler(2.0**12), StaticScaler(2.0**-5), moving):
        assert story(scaler) == plain
    assert moving.value == 512, "it has moved meanwhile"
    assert story(StaticScaler(1000.0))[1] != plain[1]


# A skipped step -------------------------------------------------------------------------------------------------------


@half_of
@pytest.mark.parametrize("half_weights", [False, True])
@model_of
def test_a_skipped_batch_leaves_everything_as_it_was(make: Any, batch: Any, half_weights: bool, half: str) -> None:
    """The next good batch continues as if the skipped one had never existed."""

    def start() -> Run:
        # 2^130 overflows in float32
        return run(make(), StaticPolicy(MIXED[half]), half_weights, StaticScaler(16.0, patience=9), clip=0.5)

    disturbed, alone = start(), start()
    for number in range(2):
        assert disturbed.step(batch(number)) == alone.step(batch(number))
    before, scaler = disturbed.bits(), disturbed.scaler
    scaler.value = 2.0**130
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            loss, norm = disturbed.step(batch(2))
            assert math.isfinite(loss) and norm == math.inf
    assert disturbed.bits() == before and disturbed.optimizer.updates == 2 and scaler.skips == 2
    scaler.value = 16.0
    assert disturbed.step(batch(3)) == alone.step(batch(3))
    assert disturbed.bits() == alone.bits() != before
    assert disturbed.optimizer.updates == 3


def test_a_skipped_first_batch() -> None:
    """Skipped before the optimizer has any state or masters."""
    one = run(small_gpt(), StaticPolicy(), True, DynamicScaler(2.0**60))
    assert one.step(ids())[1] == math.inf
    assert one.optimizer.state == one.optimizer.masters == [] and one.optimizer.updates == 0
    assert one.scaler.value == 2.0**59


def test_others_may_decide() -> None:
    """`agree` is an argument, called once per batch; it may report an overflow elsewhere."""
    asked: list[tuple[bool, Any]] = []

    def elsewhere(overflow: bool, world: Any) -> bool:
        asked.append((overflow, world))
        return True

    one = run(small_gpt(), scaler=StaticScaler(8.0, agree=elsewhere))
    before = one.bits()
    assert one.step(ids())[1] == math.inf and one.bits() == before
    assert asked == [(False, one.reducer.world)]


@pytest.mark.parametrize("half", ["float32", *HALVES])
def test_without_a_scaler_there_is_no_step_on_what_is_no_number(half: str) -> None:
    """A non-finite norm prevents the step."""
    one = run(small_gpt(), StaticPolicy(half if half == "float32" else MIXED[half]), lr=1.0)
    for _ in range(2):
        one.step(ids())
    before = one.bits()
    parameter(one.model, "blocks.0.norm1.bias").data[0] = math.inf
    disturbed = one.bits()
    with np.errstate(invalid="ignore", over="ignore"):
        assert not math.isfinite(one.step(ids())[1])
    assert one.bits() == disturbed != before and one.optimizer.updates == 2


@pytest.mark.parametrize("half_weights", [False, True])
def test_clipping_comes_after_the_scale(half_weights: bool) -> None:
    """The norm is that of the unscaled gradient, and the update's length is given by the limit."""
    lr, clip = 0.5, 0.125
    true = run(small_gpt(), optimizer=SGD, lr=lr, clip=clip).step(ids())[1]
    assert true > 2 * clip
    for scale in (1.0, 256.0):
        one = run(small_gpt(), StaticPolicy(), half_weights, StaticScaler(scale), SGD, lr=lr, clip=clip)
        before = [require(bucket.data).astype(np.float64) for bucket in one.reducer.trained]
        assert close_to(one.step(ids())[1], true, 0.01)
        after = [x for x in one.optimizer.masters if x is not None] or [x.data for x in one.reducer.owned()]
        moved = math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
        assert close_to(moved, lr * clip, 0.01)


def test_a_finite_gradient_is_no_overflow(kind: type[DynamicScaler] = DynamicScaler) -> None:
    """S g may be finite although its square overflows float32. Only the gradient counts, as in PyTorch's found_inf."""
    one, plain = (run(small_gpt(), scaler=scaler, lr=1e-3) for scaler in (kind(2.0**60, interval=1), None))
    for number in range(80):
        skips, scale = one.scaler.skips, one.scaler.value
        norm, true = one.step(ids(number))[1], plain.step(ids(number))[1]
        finite = all(np.isfinite(owned.grad).all() for owned in one.reducer.owned())
        assert finite == (one.scaler.skips == skips) == math.isfinite(norm), f"with the scale {scale}"
        if one.scaler.skips:
            break
        assert close_to(norm, true, 1e-6), "a power of two changes no digit of the norm"
    assert one.scaler.value >= 2.0**126


@pytest.mark.parametrize("power", [0, 30, 60, 63, 64, 100, 126, -70, -100, -120])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_squares_of_any_finite_numbers(power: int, dtype: str) -> None:
    """The sum equals that in float64, even if a square overflows or underflows in float32."""
    with np.errstate(over="ignore"):
        x = (np.random.default_rng(1).normal(size=70_001) * 0.25 * 2.0**power).astype(DTYPES[dtype])
    x = x[np.isfinite(x)]
    right = float((x.astype(np.float64) ** 2).sum())
    assert close_to(square(x), right, 1e-4)
    one_bad = np.append(x, np.array([math.inf], x.dtype))
    assert square(one_bad) == math.inf and not all_finite(one_bad) and all_finite(x)


def test_float64_gradients_whose_squares_are_infinite_are_finite() -> None:
    assert all_finite(np.array([1e200, -1e300])) and not all_finite(np.array([1e200, math.nan]))


def test_models_that_share_a_scaler(kind: type[DynamicScaler] = DynamicScaler) -> None:
    """As in a GAN: in any order, no gradient is off by a factor, and S moves once per round."""

    def pair() -> list[Run]:
        return [run(small_gpt(), optimizer=SGD, lr=0.0) for _ in range(2)]

    norms = [run(small_gpt(), optimizer=SGD, lr=0.0).step(ids(number))[1] for number in range(2)]
    for bad in (False, True):
        scaler, (one, two) = kind(1024.0, interval=1), pair()
        for number, each in enumerate((one, two)):
            compute_gradients(each.model, ids(number), each.reducer, scaler=scaler)
        if bad:
            one.reducer.owned()[0].grad[0] = math.inf
        assert [scaler.unscale(each.reducer) for each in (one, two)] == [not bad, True]
        assert close_to(two.reducer.norm(), norms[1], 1e-6)
        assert bad or close_to(one.reducer.norm(), norms[0], 1e-6)
        assert scaler.value == (512 if bad else 2048), "one round, one move; an overflow of either counts"
        with pytest.raises(UserError, match="unscale was called twice in one step"):
            scaler.unscale(two.reducer)


def test_rounds_of_a_shared_scaler() -> None:
    """Two backwards followed by two unscales are one round, like one update() in PyTorch; in sequence they are two."""
    scaler = DynamicScaler(1024.0, interval=3)
    pair = [run(small_gpt(), optimizer=SGD, lr=0.0) for _ in range(2)]
    for _ in range(3):
        for each in pair:
            compute_gradients(each.model, ids(), each.reducer, scaler=scaler)
        assert all(scaler.unscale(each.reducer) for each in pair)
    assert scaler.value == 2048
    for each in pair:
        compute_gradients(each.model, ids(), each.reducer, scaler=scaler)
        assert scaler.unscale(each.reducer)
    assert (scaler.value, scaler.good) == (2048, 2)


# Which dtype ----------------------------------------------------------------------------------------------------------


def nodes(loss: Tensor) -> list[Node]:
    return youngest_first([loss])[0]


def floats(node: Node) -> Iterator[np.ndarray]:
    """Yield what the node saves, except integers, booleans and the per-row scale of a layer norm."""
    for kept in node.saved:
        x = kept.data if isinstance(kept, Tensor) else kept
        scale = node.operation == "layer_norm" and x.shape[-1] == 1
        if x.dtype.kind not in "iub" and not scale:
            yield x


def layer_of(node: Node) -> str:
    """Return the path of the layer that made a node, inferred from its parameters; empty if it has none."""
    if node.operation == "linear_transposed":
        return "head.classifier"
    paths = {p.placement.path.rpartition(".")[0] for p, _ in node.weights if isinstance(p, Parameter)}
    return paths.pop() if len(paths) == 1 else ""


class Asked:
    """Records the dtypes that modules choose: (path, operation) -> (given dtype, answer)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[tuple[str, str], tuple[str, str]] = {}
        chosen = Module.compute_dtype

        def asked(module: Module, operation: str, given: Any) -> np.dtype:
            answer = chosen(module, operation, given)
            self.answers[module.path, operation] = (np.dtype(given).name, answer.name)
            return answer

        monkeypatch.setattr(Module, "compute_dtype", asked)


# the questions of the two-block GPT, each asked once per forward
QUESTIONS = {
    *((f"embed.{table}", "embedding") for table in ("tokens", "positions")),
    ("embed", "layer"), ("head", "layer"), ("head.norm", "layer_norm"), ("head.classifier", "linear"),
    *((f"blocks.{i}.{norm}", "layer_norm") for i in range(L) for norm in ("norm1", "norm2")),
    *((f"blocks.{i}.{part}", "linear") for i in range(L) for part in ("attn.qkv", "attn.proj", "mlp.up", "mlp.down")),
    *((f"blocks.{i}.attn.core", "attention") for i in range(L)),
    *((f"blocks.{i}", "layer") for i in range(L)),
}  # fmt: skip

# patterns, and the resulting dtype of a layer
PATTERNS: dict[str, tuple[dict[str, str], Callable[[str], str]]] = {
    "none": ({}, lambda path: "float16"),
    "a unit": ({"head": "float32"}, lambda path: "float32" if path.startswith("head") else "float16"),
    "a layer": ({"head.norm": "bfloat16"}, lambda path: "bfloat16" if path == "head.norm" else "float16"),
    "in all blocks": ({"blocks.*.mlp": "float32"}, lambda path: "float32" if ".mlp" in path else "float16"),
    "norms": ({"*.norm?": "float32"}, lambda path: "float32" if path[-5:-1] == "norm" else "float16"),
    "the first that fits": (
        {"blocks.1": "bfloat16", "blocks.*": "float32"},
        lambda path: "bfloat16" if path.startswith("blocks.1") else "float32" if path[0] == "b" else "float16",
    ),
    "all": ({"*": "float32"}, lambda path: "float32"),
}


@pytest.mark.parametrize(("patterns", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_static_by_path(patterns: Any, expected: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the dtype that every layer is given, and that of the arrays it saves."""
    model, asked = small_gpt(), Asked(monkeypatch)
    use(model, StaticPolicy("mixed_float16", patterns))
    divided(model)
    loss = model(ids())
    assert asked.answers.keys() == QUESTIONS
    assert {path: answer for (path, _), (_, answer) in asked.answers.items()} == {
        path: expected(path) for path, _ in QUESTIONS
    }
    layers = [(layer_of(node), x.dtype) for node in nodes(loss) for x in floats(node) if layer_of(node)]
    assert {path for path, _ in layers} == {path for path, what in QUESTIONS if what in ("linear", "layer_norm")}
    assert all(dtype == expected(path) for path, dtype in layers)
    attention = [x.dtype for node in nodes(loss) if node.operation == "causal_attention" for x in floats(node)]
    assert attention == [expected(f"blocks.{i}.attn") for i in (1, 0) for _ in ("qkv", "p")]  # the last block first


@half_of
@pytest.mark.parametrize("half_weights", [False, True])
@model_of
def test_no_residue_of_float32(make: Any, batch: Any, half_weights: bool, half: str) -> None:
    """Everything saved for backward and every gradient is half precision, without any cast."""
    model = make()
    use(model, StaticPolicy(MIXED[half]), half_weights)
    divided(model)
    loss = model(batch())
    tape = nodes(loss)
    flown: list[tuple[str, np.dtype]] = []
    assert loss.dtype == np.float32 and "cast" not in {node.operation for node in tape}
    for node in tape:
        for x in floats(node):
            assert x.dtype == half, f"{node.operation} of {layer_of(node)} keeps {x.dtype} {x.shape}"
        watched(node, flown)
    loss.backward()
    assert len(flown) >= len(tape)
    assert [where for where, dtype in flown if dtype != half] == ["into cross_entropy"]
    for p in model.parameters():
        assert p.grad is not None
        assert p.data.dtype == p.grad.dtype == p.dtype == (half if half_weights else "float32")


def watched(node: Node, flown: list[tuple[str, np.dtype]]) -> None:
    """Make the node record the dtypes of its incoming and outgoing gradients."""
    vjp, name = node.vjp, node.operation

    def noting(g: np.ndarray) -> tuple[np.ndarray, ...]:
        assert vjp is not None
        parts = vjp(g)
        flown.extend([(f"into {name}", g.dtype), *((f"out of {name}", part.dtype) for part in parts)])
        return parts

    if vjp is not None:
        node.vjp = noting


CHOSEN: dict[str, dict[str, str]] = {
    "products": {"linear": HALF, "attention": HALF},
    "attention in float32": {**CASTS, "attention": "float32"},
    "norms in float32": {**CASTS, "layer_norm": "float32"},
    "only linear": {"linear": HALF},
    "nothing": {},
}


@half_of
@pytest.mark.parametrize("casts", CHOSEN.values(), ids=CHOSEN)
def test_dynamic_by_operation(casts: dict[str, str], half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = small_gpt(), Asked(monkeypatch)
    use(model, DynamicPolicy(half, casts))
    divided(model)
    loss = model(ids())
    dtypes = {HALF: half, "float32": "float32"}
    assert asked.answers.keys() == QUESTIONS
    for (_, operation), (given, answer) in asked.answers.items():
        assert answer == (dtypes[casts[operation]] if casts.get(operation, GIVEN) != GIVEN else given)
    kept = {(node.operation, x.dtype.name) for node in nodes(loss) for x in floats(node)}
    for operation, node in (("linear", "linear"), ("linear", "linear_transposed"), ("attention", "causal_attention")):
        if operation in casts:
            assert {dtype for name, dtype in kept if name == node} == {dtypes[casts[operation]]}
    loss.backward()


@half_of
def test_the_usual_table_is_half_everywhere(half: str) -> None:
    """Until something overflows, DynamicPolicy equals StaticPolicy bit for bit."""
    static, dynamic = (run(small_gpt(), precision) for precision in (StaticPolicy(MIXED[half]), DynamicPolicy(half)))
    for number in range(3):
        assert static.step(ids(number)) == dynamic.step(ids(number))
    assert static.bits() == dynamic.bits()


def test_full() -> None:
    """StaticPolicy("float32") and `in_full` match the model without a precision, bit for bit."""
    alone, one = run(small_gpt()), run(small_gpt(), StaticPolicy("float32"))
    assert alone.step(ids()) == one.step(ids()) and alone.bits() == one.bits()
    precision = StaticPolicy()
    other = run(small_gpt(), precision)
    plain = run(small_gpt())
    with precision.in_full():
        assert other.step(ids()) == plain.step(ids())
    assert other.bits() == plain.bits()
    assert other.step(ids()) != plain.step(ids()), "afterwards all is half again"


def test_use_refuses() -> None:
    with pytest.raises(UserError, match=r"'blocks\.\*\.mlq' matches no layer; the layers are embed, blocks\.0"):
        use(small_gpt(), StaticPolicy(layers={"head": "float32", "blocks.*.mlq": "float32"}))
    with pytest.raises(UserError, match="the policy is 'fp16'; allowed: 'float32', 'mixed_float16'"):
        StaticPolicy("fp16")
    with pytest.raises(UserError, match="the dtype of 'head' is 'float64'"):
        StaticPolicy(layers={"head": "float64"})
    with pytest.raises(
        UserError, match=r"embed\.tokens\.weight is float64; mixed precision starts from a float32 model"
    ):
        use(small_gpt(dtype="float64"), StaticPolicy())
    model = small_gpt()
    divided(model)
    with pytest.raises(UserError, match=r"embed\.tokens\.weight belongs to a trainer already"):
        use(model, StaticPolicy())
    drawn = small_gpt()
    drawn.init(SEED)
    with pytest.raises(UserError, match="already has float32 values"):
        use(drawn, StaticPolicy(), half_weights=True)
    for left in (model, drawn):
        assert all(module.precision is None for module in left.modules())


def test_layers_are_the_units() -> None:
    for (make, _), layers in zip(
        (MODELS["gpt"], MODELS["mlp"]), (("embed", "blocks.0", "blocks.1", "head"), ("dense.0", "dense.1", "head")),
        strict=True,
    ):  # fmt: skip
        precision = DynamicPolicy()
        use(make(), precision)
        assert precision.layers == layers


# Numbers: within the rounding of half ---------------------------------------------------------------------------------


def rounded(x: np.ndarray, half: str) -> np.ndarray:
    return x.astype(DTYPES[half]).astype(np.float64)


LABELS = np.arange(6).reshape(2, 3) % 4
# the operation, shapes of its activations, shapes of its parameters
OPERATIONS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "linear": (fused.linear, [(2, 5, 16)], [(16, 12), (12,)]),
    "linear and gelu": (partial(fused.linear, gelu=True), [(2, 5, 16)], [(16, 12), (12,)]),
    "linear_transposed": (fused.linear_transposed, [(2, 5, 16)], [(12, 16)]),
    "add_bias": (fused.add_bias, [(2, 5, 16)], [(16,)]),
    "layer_norm": (fused.layer_norm, [(2, 5, 16)], [(16,), (16,)]),
    "embedding": (lambda table: fused.embedding(LABELS, table), [], [(4, 8)]),
    "causal_attention": (fused.causal_attention, [(2, 7, 3, 2, 4)], []),
    "gelu": (fused.gelu, [(5, 7)], []),
    "dropout": (lambda x: fused.dropout(x, np.arange(6).reshape(2, 3) > 1, 0.3), [(2, 3)], []),
    "cross_entropy": (lambda x: fused.cross_entropy(x, LABELS, 6), [(2, 3, 4)], []),
    "mean_squared_error": (lambda x: fused.mean_squared_error(x, np.ones((2, 3), x.dtype), 6), [(2, 3)], []),
}
LOSSES = ("cross_entropy", "mean_squared_error")


@half_of
@pytest.mark.parametrize("stored", ["float32", "half"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_round_once(name: str, stored: str, half: str) -> None:
    """Compare with float64 on the same half-precision inputs; losses are float32 and match to its precision. Parameter
    gradients have the parameters' dtype, everything else is half."""
    operation, shapes, parameters = OPERATIONS[name]
    draw, dtype = np.random.default_rng(1), DTYPES[half]
    values = [rounded(draw.standard_normal(shape), half) for shape in [*shapes, *parameters]]
    if name == "embedding" and stored == "float32":
        operation = lambda table: fused.embedding(LABELS, table, table.dtype if table.dtype == np.float64 else dtype)
    types = [dtype] * len(shapes) + [dtype if stored == "half" else np.dtype(np.float32)] * len(parameters)
    leaves = [Tensor(x.astype(kind), requires_grad=True) for x, kind in zip(values, types, strict=True)]
    true = [Tensor(x, requires_grad=True) for x in values]
    y, y_true = operation(*leaves), operation(*true)
    assert y.dtype == (np.float32 if name in LOSSES else dtype)
    assert close(y.data, y_true.data) <= (1e-6 if name in LOSSES else 2 * EPS[half])
    g = rounded(draw.standard_normal(y.shape), half)
    y.backward(np.asarray(g, y.dtype))
    y_true.backward(np.asarray(g))
    for leaf, reference, kind in zip(leaves, true, types, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == kind
        assert close(leaf.grad, reference.grad) <= 3 * EPS[half]


# Bytes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", POLICIES)
def test_bytes_of_activations(name: str, dropout: float) -> None:
    """Bytes that the GPT's forward saves, with N = B T tokens:

    numbers    in a block 16 N D + B H T^2; in the head 2 N D (norm, classifier) and N V (logits)
    unchanged  float32: a scale for each row of the 2 L + 1 norms; int64: ids, times, labels, positions; masks: bytes
    """
    model, N = small_gpt(dropout=dropout), B * T
    use(model, StaticPolicy(name))
    divided(model)
    batch = ids()
    with Ledger().open() as ledger:
        loss = model(batch)
        kept = ledger.live["activations"]
    numbers = L * (16 * N * D + B * H * T * T) + 2 * N * D + N * V
    others = 4 * (2 * L + 1) * N + 8 * (3 * N + T) + ((2 * L + 1) * N * D if dropout else 0)
    assert kept == DTYPES[POLICIES[name]].itemsize * numbers + others
    assert loss.requires_grad


@half_of
def test_bytes_of_activations_of_the_mlp(half: str) -> None:
    """All in half precision: inputs of three products, the results of two relus (the next inputs), and the logits."""
    model, batch = small_mlp(), rows()
    use(model, StaticPolicy(MIXED[half]))
    divided(model)
    with Ledger().open() as ledger:
        loss = model(batch)
        kept = ledger.live["activations"]
    assert kept == 2 * 9 * (5 + 6 + 7 + 3) + 8 * 2 * 9, "numbers, and in int64 the labels and where they stand"
    assert loss.requires_grad


@half_of
@pytest.mark.parametrize(("half_weights", "expected"), [(False, (4, 4, 8)), (True, (2, 2, 12))])
def test_bytes_a_parameter(half: str, half_weights: bool, expected: tuple[int, int, int]) -> None:
    with Ledger().open() as ledger:
        one = run(small_gpt(), StaticPolicy(MIXED[half]), half_weights)
        one.step(ids())
        held = tuple(ledger.live[kind] for kind in ("parameters", "gradients", "optimizer"))
    P = sum(math.prod(p.shape) for p in one.model.parameters())
    assert held == tuple(n * P for n in expected)


# Masters --------------------------------------------------------------------------------------------------------------


def without_masters(kind: type[Optimizer]) -> type[Optimizer]:
    """Return the mistaken optimizer that updates the half-precision values themselves."""

    class Forgetful(kind):  # type: ignore[misc, valid-type]
        def remember(self, data: np.ndarray) -> None:
            super().remember(data)
            self.masters[-1] = None
            self.state[-1] = [array.astype(data.dtype) for array in self.state[-1]]

    return Forgetful


@half_of
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_small_updates_add_up_in_the_master(kind: type[Optimizer], half: str) -> None:
    """A thousand steps of -1e-4 from 1: in half precision, 1 - 1e-4 rounds to 1."""
    ends = []
    for made in (kind, without_masters(kind)):
        piece = Owned(np.ones(2, DTYPES[half]), np.ones(2, DTYPES[half]), False)
        optimizer = made(SimpleNamespace(owned=lambda piece=piece: [piece], factor=1.0))
        optimizer.works = True  # an update that changes nothing is expected here
        for _ in range(1000):
            optimizer.step(1e-4)
            (master,) = optimizer.masters
            assert master is None or np.array_equal(master.astype(DTYPES[half]), piece.data)
        ends.append(float(piece.data[0]))
    assert abs(ends[0] - 0.9) <= EPS[half] and ends[1] == 1


# It learns as well as float32 -----------------------------------------------------------------------------------------

IMAGES, LAST = 64, 10


class Weighted(Model):
    """A model with its loss multiplied by `weight`: gradients can be arbitrarily small, all else is unchanged."""

    def __init__(self, model: Model, weight: float) -> None:
        super().__init__(model.units)
        self.weight = weight

    def __call__(self, batch: Batch) -> Tensor:
        return super().__call__(batch) * self.weight


def digits(weight: float, lr: float, kind: type[Optimizer] = SGD, **options: Any) -> tuple[float, Run]:
    """Return the unweighted loss after 150 updates, and the run."""
    images, labels = load_digits()
    data = ArrayLoader(images[:IMAGES].astype(np.float32), labels[:IMAGES], IMAGES, SEED)
    one = run(mlp(MLPConfig(hidden=(32,))), optimizer=kind, lr=lr / weight if kind is SGD else lr, **options)
    one.model = Weighted(one.model, weight)
    losses = [one.step(data.batch(number))[0] / weight for number in range(150)]
    return float(np.mean(losses[-LAST:])), one


SMALL = 1e-6  # gradients times this are 0 in float16
RATES: list[tuple[type[Optimizer], float]] = [(SGD, 0.5), (Adam, 0.003)]


@cache
def full(weight: float, lr: float, name: str = "SGD") -> float:
    return digits(weight, lr, {kind.__name__: kind for kind, _ in RATES}[name])[0]


@pytest.mark.parametrize("half_weights", [later(False), True])
@pytest.mark.parametrize(("kind", "lr"), RATES)
def test_small_gradients_need_a_scale_in_float16(kind: type[Optimizer], lr: float, half_weights: bool) -> None:
    options: dict[str, Any] = {"kind": kind, "precision": StaticPolicy(), "half_weights": half_weights}
    true = full(SMALL, lr, kind.__name__)
    assert digits(SMALL, lr, **options)[0] > 10 * true
    moving = DynamicScaler(2.0**8, interval=10)  # far too small at first
    for scaler in (StaticScaler(2.0**16), moving):
        assert close_to(digits(SMALL, lr, scaler=scaler, **options)[0], true, 0.02)
    assert moving.value > 2.0**16


@pytest.mark.parametrize("half_weights", [False, True])
@pytest.mark.parametrize(("kind", "lr"), RATES)
def test_bfloat16_needs_no_scale(kind: type[Optimizer], lr: float, half_weights: bool) -> None:
    """It learns as well as float32, and a power-of-two scale changes no bit."""
    options: dict[str, Any] = {"kind": kind, "precision": StaticPolicy("mixed_bfloat16"), "half_weights": half_weights}
    loss, one = digits(SMALL, lr, **options)
    assert close_to(loss, full(SMALL, lr, kind.__name__), 0.02)
    again, other = digits(SMALL, lr, scaler=StaticScaler(2.0**12), **options)
    assert (again, other.bits()) == (loss, one.bits())


@half_of
def test_half_weights_stand_still_without_masters(half: str) -> None:
    """Compare with float32 how far the loss falls in 150 updates at a small learning rate."""
    lr, start = 3e-4, full(1.0, 0.0)
    true = start - full(1.0, lr)
    options: dict[str, Any] = {
        "precision": StaticPolicy(MIXED[half]),
        "half_weights": True,
        "scaler": StaticScaler(256.0),
    }
    assert close_to(start - digits(1.0, lr, **options)[0], true, 0.02)
    assert start - digits(1.0, lr, without_masters(SGD), **options)[0] < 0.3 * true


def sentences(number: int) -> Batch:
    """Return ids in which the next one follows a fixed rule seven times out of eight."""
    rows, time, draw = 8, 16, np.random.default_rng(number)
    text = draw.integers(0, V, (rows, time + 1))
    for t in range(time):
        text[:, t + 1] = np.where(draw.random(rows) < 7 / 8, (5 * text[:, t] + 3) % V, text[:, t + 1])
    return Batch(text[:, :-1], text[:, 1:], Where(SEED, number, rows, time, slice(0, rows), slice(0, time)))


def learn(steps: int = 150, **options: Any) -> tuple[float, Run]:
    """Return the mean of the last twenty losses, and the run."""
    model = small_gpt(context=16, width=32, std=0.05)
    one = run(model, lr=3e-3, clip=1.0, **options)
    losses = [one.step(sentences(number))[0] for number in range(steps)]
    return float(np.mean(losses[-20:])), one


@cache
def learned() -> float:
    loss = learn()[0]
    assert loss < 0.5 * learn(20)[0], "it learns"
    return loss


@pytest.mark.parametrize("half_weights", [later(False), True])
@pytest.mark.parametrize(
    ("precision", "half"), [later(StaticPolicy, "float16"), later(StaticPolicy, "bfloat16"), (DynamicPolicy, "float16")]
)
def test_the_gpt_learns_as_in_float32(precision: Any, half: str, half_weights: bool) -> None:
    made = precision(MIXED[half] if precision is StaticPolicy else half)
    scaler = DynamicScaler(interval=20) if half == "float16" else None  # grows until it overflows
    loss, one = learn(precision=made, half_weights=half_weights, scaler=scaler)
    assert close_to(loss, learned(), 0.02)
    assert half == "bfloat16" or (one.scaler.skips > 0 and one.scaler.value > 2.0**16)
    assert one.optimizer.updates == 150 - one.scaler.skips


# Layers that overflow -------------------------------------------------------------------------------------------------


def parameter(model: Module, path: str) -> Parameter:
    (found,) = (p for p in model.parameters() if p.placement.path == path)
    return found


def bulging(
    layer: str, factor: float = BLOWN, frozen: bool = True, precision: Precision | None = None, **rest: Any
) -> Run:
    """Return a GPT with one MLP that is `factor` times as large inside; in float32 the result is unchanged."""
    model = small_gpt(tied=False)
    ways = [parameter(model, f"{layer}.mlp.{way}.weight") for way in ("up", "down")]
    for p in ways:
        p.requires_grad = not frozen  # keep the weights fixed
    one = run(model, precision, lr=1e-3, **rest)
    ways[0].data *= np.float32(factor)
    ways[1].data /= np.float32(factor)
    return one


def adapt(one: Run, precision: DynamicPolicy, batch: Batch) -> bool:
    """Take one step as the trainer does and return whether it was skipped."""
    assert isinstance(one.scaler, StaticScaler)
    with watching(precision.watch):
        _, norm = one.step(batch)
    if math.isfinite(norm):
        precision.stepped()
    else:
        precision.skipped(one.reducer, one.scaler.at_floor())
    return not math.isfinite(norm)


def in_float32(one: Run, asked: Asked) -> set[str]:
    """Return the units that compute entirely in float32; assert that all others compute entirely in half."""
    asked.answers.clear()
    with one.scaler.expecting():
        one.model(ids())
    dtypes: dict[str, set[str]] = {}
    for (path, _), (_, answer) in asked.answers.items():
        unit = next(unit.path for unit in one.model.units if f"{path}.".startswith(f"{unit.path}."))
        dtypes.setdefault(unit, set()).add(answer)
    assert dtypes.keys() == {"embed", "blocks.0", "blocks.1", "head"}
    assert all(len(found) == 1 for found in dtypes.values()), dtypes
    return {unit for unit, found in dtypes.items() if found == {"float32"}}


def test_a_step_that_was_made_blames_no_layer() -> None:
    """A layer may overflow where the loss does not see it. The next skipped step is not its fault."""
    precision = DynamicPolicy()
    one = run(small_gpt(tied=False), precision, scaler=DynamicScaler(16.0))
    good, bad = Tensor(np.ones(1, np.float16)), Tensor(np.full(1, np.inf, np.float16))
    precision.watch("blocks.0", good, bad)
    precision.stepped()
    precision.skipped(one.reducer, at_floor=False)
    assert not precision.blamed
    precision.watch("blocks.0", good, bad)
    precision.skipped(one.reducer, at_floor=False)
    assert precision.blamed == {"blocks.0": 1}


@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1"])
def test_a_layer_that_overflows_rests_in_float32(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves to float32 after `patience` batches and is retried after `rest` updates."""
    precision, asked = DynamicPolicy(patience=2, rest=3), Asked(monkeypatch)
    one = bulging(layer, precision=precision, scaler=DynamicScaler(16.0, floor=2.0**-20))
    skipped, resting = [], []
    for number in range(12):
        skipped.append(adapt(one, precision, ids(number)))
        resting.append(in_float32(one, asked))
    assert skipped == [True, True, False, False, False] * 2 + [True, True]
    assert resting == [set(), {layer}, {layer}, {layer}, set()] * 2 + [set(), {layer}]
    assert one.optimizer.updates == 6
    back = f"layer {layer} overflowed in 2 batches in a row: float32 from now on"
    assert precision.log == [back, f"layer {layer} is tried in half precision again"] * 2 + [back]


def test_the_rest_is_counted_in_updates() -> None:
    precision = DynamicPolicy(patience=1, rest=2)
    one = bulging("blocks.1", precision=precision, scaler=DynamicScaler(16.0, floor=2.0**-20))
    assert adapt(one, precision, ids())
    for _ in range(3):
        one.scaler.value = 2.0**100
        assert adapt(one, precision, ids()), "skipped for the sake of the scale"
        assert precision.resting == {"blocks.1": 2}
    one.scaler.value = 1.0
    assert not adapt(one, precision, ids())
    assert precision.resting == {"blocks.1": 1}


def test_what_is_trained_meanwhile_is_what_float32_trains() -> None:
    """To the precision of half."""
    precision = DynamicPolicy(patience=1, rest=50)
    one = bulging("blocks.1", precision=precision, scaler=DynamicScaler(16.0))
    true = bulging("blocks.1")
    assert adapt(one, precision, ids())
    for number in range(5):
        (loss, norm), (true_loss, true_norm) = one.step(ids(number)), true.step(ids(number))
        assert close_to(loss, true_loss, 0.01) and close_to(norm, true_norm, 0.02)


BLOWN_UP = {
    "embed": "embed.tokens.weight", "blocks.0": "blocks.0.mlp.up.weight", "blocks.1": "blocks.1.attn.qkv.weight",
    "head": "head.classifier.weight",
}  # fmt: skip


def blown(one: Run, layer: str, factor: float) -> None:
    p = parameter(one.model, BLOWN_UP[layer])
    p.data *= np.float32(factor)


@pytest.mark.parametrize("layer", BLOWN_UP)
def test_the_first_that_overflows_is_blamed(layer: str) -> None:
    """Layers after it, whose input is not finite, are not blamed."""
    precision = DynamicPolicy(patience=2)
    one = run(small_gpt(tied=False), precision, scaler=DynamicScaler(16.0))
    blown(one, layer, BLOWN)
    with watching(precision.watch):
        assert one.step(ids())[1] == math.inf
    assert precision.seen == {layer}
    precision.skipped(one.reducer, at_floor=False)
    assert precision.blamed == {layer: 1} and not precision.seen and not precision.resting


def test_in_a_row_means_that() -> None:
    """A good batch or another layer resets the count."""
    precision = DynamicPolicy(patience=2)
    one = run(small_gpt(tied=False), precision, scaler=DynamicScaler(16.0, floor=2.0**-20), lr=1e-6)
    for layer in ("blocks.0", "blocks.1", "blocks.0", "", "blocks.0", "blocks.1"):
        if layer:
            blown(one, layer, BLOWN)
        assert adapt(one, precision, ids()) == bool(layer)
        if layer:
            blown(one, layer, 1 / BLOWN)
    assert not precision.resting and not precision.log
    blown(one, "blocks.1", BLOWN)
    assert adapt(one, precision, ids())
    assert precision.resting.keys() == {"blocks.1"}


def test_without_patience_no_layer_rests() -> None:
    precision = DynamicPolicy(patience=0)
    one = bulging("blocks.1", precision=precision, scaler=DynamicScaler(16.0, patience=3))
    with pytest.raises(UserError, match="3 batches in a row overflowed with the loss scale 1"):
        for _ in range(9):
            assert adapt(one, precision, ids())
    assert not precision.resting and not precision.log and one.scaler.skips == 7


def test_a_layer_whose_gradients_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient overflows are blamed only at the scale's floor, on the last layer, from which they propagate."""
    large = 2.0**-14  # the down weights are 2^14 times as large, and so are the gradients through them
    precision, asked = DynamicPolicy(patience=2, rest=3), Asked(monkeypatch)
    one = bulging("blocks.1", large, precision=precision, scaler=DynamicScaler(4096.0, floor=512.0))
    rested = []
    for _ in range(6):
        rested.append((adapt(one, precision, ids()), bool(precision.resting)))
        if rested[-1][0]:
            bad = {path.rpartition(".mlp")[0] or path for path in not_finite(one.reducer)}
            assert not any(path.startswith("head") for path in bad) and any("blocks.0" in path for path in bad)
    # S is 4096, 2048 and 1024: only the third reaches the floor
    assert rested == [(True, False), (True, False), (True, False), (True, True), (False, True), (False, True)]
    assert in_float32(one, asked) == {"blocks.1"}
    assert precision.log == ["layer blocks.1 overflowed in 2 batches in a row: float32 from now on"]

    lower = DynamicPolicy(patience=2, rest=3)
    other = bulging("blocks.1", large, precision=lower, scaler=DynamicScaler(4096.0))
    assert [adapt(other, lower, ids()) for _ in range(12)][-1] is False
    assert other.scaler.skips >= 4 and not lower.resting and not lower.blamed, "the scale has come down instead"


# Losses that are NaN or infinite --------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Precision | None, bool]] = {
    "float32": (None, False),
    "float16": (StaticPolicy(), False),
    "float16 weights": (StaticPolicy(), True),
    "bfloat16": (DynamicPolicy("bfloat16"), False),
}
kinds = pytest.mark.parametrize(("precision", "half_weights"), KINDS.values(), ids=KINDS)


@kinds
@pytest.mark.parametrize("layer", BLOWN_UP)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_first_bad_layer(layer: str, bad: float, precision: Precision | None, half_weights: bool) -> None:
    one = run(small_gpt(tied=False), precision, half_weights)
    assert first_bad_layer(one.model, ids()) is None
    parameter(one.model, BLOWN_UP[layer]).data[...] = bad
    assert first_bad_layer(one.model, ids()) == layer
    assert precision is None or not precision.full


@kinds
def test_a_layer_that_overflows_in_float32(precision: Precision | None, half_weights: bool) -> None:
    """It overflows although its weights are finite. Weights that fit float16 are too small for that."""
    one = run(small_gpt(), precision, half_weights)
    for way in ("up", "down"):
        values = parameter(one.model, f"blocks.1.mlp.{way}.weight").data
        values[...] = np.sign(values) * np.asarray(6e4 if half_weights else 1e20, values.dtype)
    assert first_bad_layer(one.model, ids()) == (None if half_weights else "blocks.1")


@half_of
def test_half_precision_alone_overflows(half: str) -> None:
    """In float32 all is finite, so no layer is named. Half precision is restored, and nothing is on the tape."""
    precision = DynamicPolicy(half)
    one = bulging("blocks.0", precision=precision)
    with np.errstate(over="ignore", invalid="ignore"):
        before = one.model(ids()).data.copy()
        assert first_bad_layer(one.model, ids()) is None
        np.testing.assert_array_equal(one.model(ids()).data, before)
    assert np.isfinite(before) == (half == "bfloat16")
    assert not precision.full and not precision.seen


def test_inputs_that_are_no_numbers() -> None:
    one, batch = run(small_mlp()), rows()
    batch.inputs[3, 1] = np.nan
    assert first_bad_layer(one.model, batch) == "dense.0"


def test_full_is_put_back_after_an_error() -> None:
    one = run(small_gpt(), precision := StaticPolicy())
    wrong = Batch(ids().inputs + V, ids().labels, ids().where)
    with pytest.raises(IndexError):
        first_bad_layer(one.model, wrong)
    assert not precision.full


def test_bfloat16_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitrain.precision.policy.xp", None)  # a backend other than NumPy
    use(small_gpt(), StaticPolicy("mixed_float16"))
    with pytest.raises(UserError, match="CuPy has no bfloat16: use float16"):
        use(small_gpt(), StaticPolicy("mixed_bfloat16"))
