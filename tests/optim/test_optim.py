"""The optimizers follow the papers' formulas and match PyTorch; clipping only shortens gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.nn import Parameter
from minitrain.optim import (
    BLOCK,
    LAMB,
    LARS,
    SGD,
    Adam,
    AdamW,
    Found,
    Held,
    Layerwise,
    Matrixwise,
    Optimizer,
    Owned,
    Totals,
    adam_step,
    adamw_step,
    base,
    clip_grad_norm,
)
from minitrain.optim.pieces import unscaled
from minitrain.parallel.parallelize import parallelize
from minitrain.train.step import train_step
from tests.equivalence.harness import toy_batch, toy_gpt

LENGTHS = (1, 7, BLOCK + 5, 2 * BLOCK)  # a short last block, or none
STEPS, LR = 20, 0.01


@dataclass
class Slices:
    """Flat pieces like those of a reducer. Weight decay applies to every second one."""

    lengths: tuple[int, ...] = LENGTHS
    dtype: str = "float64"
    sharded: bool = False
    pieces: list[Owned] = field(default_factory=list)
    factor: float = 1.0
    world: None = None

    def __post_init__(self) -> None:
        draw = np.random.default_rng(1).standard_normal
        for i, n in enumerate(self.lengths):
            self.pieces.append(Owned(draw(n).astype(self.dtype), np.zeros(n, self.dtype), i % 2 == 0))

    def owned(self) -> list[Owned]:
        return self.pieces

    def held(self) -> list[Held]:
        return [Held(piece.data, piece.decay) for piece in self.pieces]

    def over_pieces(self, found: Found) -> Totals:
        raise NotImplementedError

    def logical(self, p: Parameter, flat: Array) -> Array:
        raise NotImplementedError

    def paths(self) -> set[str]:
        raise NotImplementedError

    def norm(self) -> float:
        squares = sum((piece.grad.astype(np.float64) ** 2).sum() for piece in self.pieces)
        return self.factor * float(np.sqrt(squares))

    def draw_gradients(self, step: int) -> None:
        draw = np.random.default_rng(100 + step).standard_normal
        for piece in self.pieces:
            piece.grad[...] = draw(len(piece.grad))


def sgd(w: Any, g: Any, s: dict, t: int, decay: float, momentum: float) -> Any:
    s["v"] = momentum * s.get("v", 0) + g + decay * w
    return w - LR * s["v"]


def adam(w: Any, g: Any, s: dict, t: int, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> Any:
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return w - LR * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


def adamw(w: Any, g: Any, s: dict, t: int, decay: float) -> Any:
    return adam(w, g, s, t, b2=0.95) - LR * decay * w


Formula = Callable[..., Any]
RULES: dict[str, tuple[Callable[[Slices], Optimizer], Formula]] = {
    "sgd": (SGD, lambda w, g, s, t, decay: sgd(w, g, s, t, 0, 0)),
    "sgd decay": (lambda x: SGD(x, weight_decay=0.1), lambda w, g, s, t, on: sgd(w, g, s, t, 0.1 * on, 0)),
    "sgd momentum": (
        lambda x: SGD(x, momentum=0.9, weight_decay=0.1),
        lambda w, g, s, t, on: sgd(w, g, s, t, 0.1 * on, 0.9),
    ),
    "adam": (Adam, lambda w, g, s, t, on: adam(w, g, s, t)),
    "adam betas": (
        lambda x: Adam(x, beta1=0.8, beta2=0.9, epsilon=0.1),
        lambda w, g, s, t, on: adam(w, g, s, t, 0.8, 0.9, 0.1),
    ),
    "adamw": (lambda x: AdamW(x, weight_decay=0.1, beta2=0.95), lambda w, g, s, t, on: adamw(w, g, s, t, 0.1 * on)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-13), ("float32", 2e-5)])
def test_formula(rule: str, dtype: str, bound: float) -> None:
    make, formula = RULES[rule]
    slices = Slices(dtype=dtype)
    optimizer = make(slices)
    true = [piece.data.astype(np.float64) for piece in slices.owned()]
    states: list[dict] = [{} for _ in true]
    for step in range(STEPS):
        slices.draw_gradients(step)
        reducer = [piece.grad.copy() for piece in slices.owned()]
        optimizer.step(LR)
        for i, (piece, g) in enumerate(zip(slices.owned(), reducer, strict=True)):
            assert np.array_equal(piece.grad, g), "the gradient is not the optimizer's to change"
            true[i] = formula(true[i], g.astype(np.float64), states[i], step + 1, piece.decay)
    for piece, w in zip(slices.owned(), true, strict=True):
        assert piece.data.dtype == dtype
        assert np.abs(piece.data - w).max() <= bound
    assert all(state.dtype == dtype for held in optimizer.state for state in held)
    assert [len(held) for held in optimizer.state] == [len(optimizer.states)] * len(LENGTHS)


@pytest.mark.parametrize("rule", RULES)
def test_torch(rule: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    slices = Slices()
    optimizer = RULES[rule][0](slices)
    twins = [torch.tensor(piece.data, requires_grad=True) for piece in slices.owned()]
    decay = getattr(optimizer, "weight_decay", 0.0)
    pairs = list(zip(twins, slices.owned(), strict=True))
    groups = [{"params": [w], "weight_decay": decay * piece.decay} for w, piece in pairs]
    if isinstance(optimizer, SGD):
        other = torch.optim.SGD(groups, lr=LR, momentum=optimizer.momentum)
    else:
        assert isinstance(optimizer, Adam)
        kind = torch.optim.AdamW if isinstance(optimizer, AdamW) else torch.optim.Adam
        other = kind(groups, lr=LR, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon)
    for step in range(STEPS):
        slices.draw_gradients(step)
        for w, piece in pairs:
            w.grad = torch.tensor(piece.grad)
        optimizer.step(LR)
        other.step()
    for w, piece in pairs:
        assert np.abs(piece.data - w.detach().numpy()).max() <= 1e-13


def test_the_learning_rate_is_that_of_each_step() -> None:
    slices = Slices((3,))
    optimizer = SGD(slices)
    start = slices.owned()[0].data.copy()
    slices.owned()[0].grad[...] = 1
    for lr in (0.5, 0.0, 0.25):
        optimizer.step(lr)
    assert np.allclose(slices.owned()[0].data, start - 0.75, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [Adam, lambda x: AdamW(x, weight_decay=0.0)])
def test_first_adam_step_has_length_lr(kind: Callable[[Slices], Optimizer]) -> None:
    """m_hat is g and v_hat is g^2, so only the sign of g is left."""
    slices = Slices((6,))
    (piece,) = slices.owned()
    before = piece.data.copy()
    piece.grad[...] = [1e-3, -1e-3, 1.0, -50.0, 1e5, 0.0]
    kind(slices).step(LR)
    assert np.allclose(before - piece.data, LR * np.sign(piece.grad), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_decay_only_where_the_slice_says(kind: type[SGD] | type[AdamW]) -> None:
    slices = Slices((4, 4))
    decayed, kept = (piece.data.copy() for piece in slices.owned())
    kind(slices, weight_decay=0.5).step(LR)  # the gradients are zero
    assert np.allclose(slices.owned()[0].data, decayed * (1 - LR * 0.5), rtol=1e-15, atol=0)
    assert np.array_equal(slices.owned()[1].data, kept)


def test_decay_goes_past_the_memory() -> None:
    """m and v equal Adam's to the last bit, and so does w without decay."""
    runs = [Slices((5, 5)), Slices((5, 5))]
    plain, decayed = Adam(runs[0]), AdamW(runs[1], weight_decay=0.1)
    for step in range(3):
        for slices, optimizer in zip(runs, (plain, decayed), strict=True):
            slices.draw_gradients(step)
            optimizer.step(LR)
    assert np.array_equal(np.array(plain.state), np.array(decayed.state))
    same = [np.array_equal(a.data, b.data) for a, b in zip(*(slices.owned() for slices in runs), strict=True)]
    assert same == [False, True]


@pytest.mark.parametrize(("kind", "step", "rates"), [(Adam, adam_step, ()), (AdamW, adamw_step, (0.1, 0.0, 0.1, 0.0))])
def test_the_rule_is_an_argument(kind: type[Adam], step: Callable[..., None], rates: tuple[float, ...]) -> None:
    """The rule gets blocks of at most BLOCK elements, and weight decay 0 for slices that do not decay."""
    seen: list[tuple[Any, ...]] = []

    def rule(*arguments: Any) -> None:
        seen.append(arguments)
        step(*arguments)

    ours, theirs = Slices(), Slices()
    kind(ours, rule=rule).step(LR)
    kind(theirs).step(LR)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(ours.owned(), theirs.owned(), strict=True))
    assert max(len(arguments[0]) for arguments in seen) == BLOCK
    assert {arguments[4] for arguments in seen} == {1}
    assert {arguments[9] for arguments in seen if len(arguments) > 9} == set(rates)


def test_a_slice_may_be_empty() -> None:
    slices = Slices((0, 3))
    AdamW(slices).step(LR)
    assert np.isfinite(slices.owned()[1].data).all()


# Clipping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_long_gradient_is_shortened(dtype: str) -> None:
    slices = Slices(dtype=dtype)
    slices.draw_gradients(0)
    before, norm = [piece.grad.copy() for piece in slices.owned()], slices.norm()
    assert clip_grad_norm(slices, norm / 3) == norm
    assert abs(slices.norm() - norm / 3) < 1e-5 * norm
    start = [piece.data.copy() for piece in slices.owned()]
    SGD(slices).step(1.0)
    for piece, w, g in zip(slices.owned(), start, before, strict=True):
        assert piece.data.dtype == dtype
        assert np.allclose(piece.data, w - g / 3, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("factor", [1.0, 1.01, 100.0])
def test_a_short_gradient_is_left_alone(factor: float) -> None:
    slices = Slices()
    slices.draw_gradients(0)
    before, norm = [piece.grad.copy() for piece in slices.owned()], slices.norm()
    assert clip_grad_norm(slices, norm * factor) == norm
    assert slices.factor == 1
    assert all(np.array_equal(piece.grad, g) for piece, g in zip(slices.owned(), before, strict=True))


def test_no_gradient_at_all() -> None:
    slices = Slices()
    assert clip_grad_norm(slices, 1.0) == 0
    assert not any(piece.grad.any() for piece in slices.owned())


# On one process, without a reducer ------------------------------------------------------------------------------------

ALONE: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda it: SGD(it, momentum=0.9, weight_decay=0.1),
    "adamw": lambda it: AdamW(it, weight_decay=0.1),
    "lars": lambda it: LARS(it, weight_decay=0.1),
    "lamb": lambda it: LAMB(it, weight_decay=0.1),
}


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
@pytest.mark.parametrize("rule", ALONE)
def test_a_list_of_parameters(rule: str, clip: float | None) -> None:
    """`model.parameters()` works as in other libraries and matches a run with a reducer, even if one is frozen."""
    made, other = toy_gpt(), toy_gpt()
    reducer = parallelize(other, Mesh(world_of_one()))
    reducer.init(3)
    made.init(3)
    alone, with_reducer = ALONE[rule](made.parameters()), ALONE[rule](reducer)
    for number in range(3):
        for p in made.parameters():
            p.grad = None
        made(toy_batch(number)).backward()
        norm = clip_grad_norm(made.parameters(), clip) if clip else 0
        alone.step(LR)
        _, true = train_step(other, toy_batch(number), reducer, with_reducer, LR, clip=clip)
        assert not clip or abs(norm - true) <= 1e-13 * true
    for p, q in zip(made.parameters(), other.parameters(), strict=True):
        assert np.abs(p.data - q.data).max() <= 1e-13, p


@pytest.mark.parametrize("rule", ALONE)
def test_the_state_of_a_list_of_parameters(rule: str) -> None:
    """It has the parameters' names, and another optimizer continues from it as the first one does."""
    made = [Parameter(name, (2, 3), std=1.0, dtype=np.float64) for name in "ab"]
    for p in made:
        p.data, p.grad = p.initial(1), p.initial(2)
    first, second = ALONE[rule](made), ALONE[rule](made)
    first.step(LR)
    state, before = first.state_dict(), [p.data.copy() for p in made]
    assert {*state} == {"updates", *(f"{p.placement.path}.{name}" for p in made for name in first.states)}
    first.step(LR)
    after = [p.data for p in made]
    for p, x in zip(made, before, strict=True):
        p.data = x
    second.load_state_dict(state)
    second.step(LR)
    assert all(np.array_equal(p.data, x) for p, x in zip(made, after, strict=True)) and second.updates == 2


@pytest.mark.parametrize("rule", [LARS, LAMB])
def test_an_update_in_many_strips(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parameters share a strip until it is full: the norms, and so the update, are those of one long strip."""
    lengths: list[int] = []

    class Watched(rule):
        def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
            lengths.append(len(w))
            return super().direction(w, g, state, decay)

    found, strips, data = [], [], ArrayLoader(np.ones((4, 5)), [0, 1, 1, 1], 4, seed=1)
    for most in (BLOCK, 8):
        monkeypatch.setattr(base, "BLOCK", most)
        model = mlp(MLPConfig(5, (3, 3), 2, "float64"))
        for p in model.parameters():
            p.decay = True  # a bias is in one bucket with its matrix
        reducer = parallelize(model, Mesh(world_of_one()))
        reducer.init(3)
        optimizer = Watched(reducer)
        lengths.clear()
        for number in range(2):
            train_step(model, data.batch(number), reducer, optimizer, LR)
        strips.append(lengths[: len(lengths) // 2])
        found.append(np.concatenate([p.data.reshape(-1) for p in model.parameters()]))
    assert strips == [[2 + 6, 3 + 9, 3 + 15], [2 + 6, 3, 8, 1, 3, 8, 7]]
    assert np.abs(found[0] - found[1]).max() <= 1e-14


def test_values_that_lie_in_columns() -> None:
    """A flat view would be a copy, and the update would be lost."""
    p = Parameter("w", (2, 3), dtype=np.float64)
    p.data = np.arange(6.0).reshape(3, 2).T
    start = p.data.copy()
    p.grad = np.ones((3, 2)).T
    SGD([p]).step(0.5)
    assert np.array_equal(p.data, start - 0.5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([np.ones(3)], "without one; got an array of float64, "),
        ([[Parameter("w", (2,))]], r"without one; got \["),
        (mlp(), "without one; .*MLP object"),
        (np.float64(3), "without one; "),
        ("w", "without one; got 'w'"),
    ],
)
def test_what_is_no_list_of_parameters(given: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Adam(given)


def test_parameters_that_a_reducer_holds() -> None:
    made = toy_gpt()
    parallelize(made, Mesh(world_of_one())).init(3)
    with pytest.raises(UserError, match=r"embed\.tokens\.weight has a reducer"):
        Adam(made.parameters())


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, LARS, LAMB])
def test_hyperparameters_are_given_by_name(kind: Any) -> None:
    """A learning rate as second argument, as in other libraries, must not be taken for beta1."""
    with pytest.raises(TypeError, match="positional"):
        kind([Parameter("w", (2,))], 0.01)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda it: LARS(it, momentum=1.0), "momentum"),
        (lambda it: LARS(it, weight_decay=-1.0), "weight_decay"),
        (lambda it: LARS(it, eta=0.0), "eta"),
        (lambda it: LAMB(it, weight_decay=-1.0), "weight_decay"),
        (lambda it: LAMB(it, beta2=1.0), "beta2"),
    ],
)
def test_wrong_hyperparameters(make: Callable[[Any], Optimizer], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make([Parameter("w", (2,))])


@pytest.mark.parametrize("rule", [LARS, LAMB])
def test_a_norm_of_zero(rule: Any) -> None:
    """The trust ratio is undefined if w or the gradient is zero: the learning rate stays as it is."""
    for w, g in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        p = Parameter("w", (3,), dtype=np.float64)
        p.data, p.grad = np.full(3, w), np.full(3, g)
        rule([p], weight_decay=0.0).step(0.5)
        assert np.allclose(p.data, w - 0.5 * g, rtol=0, atol=1e-5), (w, g)


class OnlyADirection(Layerwise):
    def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        return g


class NotWhole(Matrixwise):
    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        return g


class NoUpdate(NotWhole):
    def whole(self, p: Parameter, x: Array) -> Array:
        return x


@pytest.mark.parametrize("kind", [Optimizer, Layerwise, OnlyADirection, Matrixwise, NotWhole, NoUpdate])
def test_a_rule_that_is_not_written_does_not_pass_for_one(kind: type[Optimizer]) -> None:
    p = Parameter("w", (2, 3), mean=1.0)
    p.data = p.initial(1)
    with pytest.raises(NotImplementedError):
        kind([p]).step(0.1)


class NewArray(Optimizer):
    """A mistake that raises nothing by itself: `w = w - ...` leaves the parameter as it was."""

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        w = w - lr * g


def test_a_rule_that_changes_nothing_is_refused() -> None:
    p = Parameter("w", np.ones(3))
    wrong = NewArray([p])
    wrong.step(0.1)  # without a gradient there is nothing to change
    p.grad = np.array([0, 1, 0], p.dtype)
    wrong.step(0.0)
    with pytest.raises(UserError, match=r"changed no weight.*\n.*in place"):
        wrong.step(0.1)
    rule = SGD([p])
    rule.step(0.1)
    assert p.data.tolist() == [1, np.float32(0.9), 1]
    rule.step(1e-30)  # too small to change anything


def test_what_is_trained_stays_the_same() -> None:
    """The optimizer's state belongs to the parameters that were trained when it was made."""
    made = [Parameter(name, (2,)) for name in "ab"]
    for p in made:
        p.data, p.grad = p.initial(1), np.ones(2, np.float32)
    optimizer = Adam(made)
    optimizer.step(0.1)
    made[0].requires_grad = False
    with pytest.raises(UserError, match=r"^a was frozen after its optimizer was made"):
        optimizer.step(0.1)
    again = Adam(made)
    made[0].requires_grad = True
    with pytest.raises(UserError, match=r"^a was unfrozen after its optimizer was made"):
        again.step(0.1)


def test_each_parameter_once_and_one_at_least() -> None:
    p, frozen = Parameter("w", (2,)), Parameter("f", (2,))
    frozen.requires_grad = False
    for wrong in ([p, p], [], [frozen]):
        with pytest.raises(UserError, match=r"distinct parameters to train; got \d"):
            SGD(wrong)


def test_states_keep_their_names() -> None:
    """They are the names in checkpoints: with others, a run could not be resumed."""
    w = [Parameter("w", (2, 2))]
    made = [SGD(w), SGD(w, momentum=0.5), Adam(w), AdamW(w), LARS(w), LAMB(w)]
    assert [it.states for it in made] == [(), ("velocity",), ("m", "v"), ("m", "v"), ("step",), ("m", "v")]


@pytest.mark.parametrize("states", ["momentum", ("m", "m"), ("master",), (3,), ["m"], ("",)])
def test_names_of_states(states: Any) -> None:
    """Iterating over a string would make an array per letter."""
    with pytest.raises(UserError, match=r"Own\.states is .*give a tuple of different names"):
        Adam.__init__(object.__new__(type("Own", (Adam,), {"states": states})), [Parameter("w", (2,))])


class WritesTheGradient(Optimizer):
    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        g += w


class WritesTheMomentum(Matrixwise):
    states = ("m",)

    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        return state[0]

    def whole(self, p: Parameter, x: Array) -> Array:
        x += 1
        return x


@pytest.mark.parametrize("kind", [WritesTheGradient, WritesTheMomentum])
def test_what_a_rule_is_given_to_read_is_not_written_to(kind: type[Optimizer]) -> None:
    """Whether g is the bucket itself depends on loss scale and mesh, so the effect of writing to it would vary."""
    p = Parameter("w", (2, 3))
    p.data, p.grad = p.initial(1), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        kind([p]).step(0.1)


def test_a_gradient_that_needs_no_change_is_not_copied() -> None:
    """With S = 1 and equal dtypes, the rule reads the bucket itself: a copy would be a pass over the memory."""
    stored = np.array([1.0, -2.0], np.float32)
    assert unscaled(stored, np.float32, 1.0) is stored
    np.testing.assert_array_equal(unscaled(stored, np.float64, 0.5), [0.5, -1.0])


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (SGD, {"momentum": 0.0, "weight_decay": 0.0}),
        (Adam, {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),  # Algorithm 1 of the paper
        (AdamW, {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.1}),  # as GPT-3
        (LARS, {"momentum": 0.9, "weight_decay": 0.0, "eta": 0.001}),
        (LAMB, {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.01}),
    ],
)
def test_the_defaults(kind: type[Optimizer], defaults: dict[str, float]) -> None:
    """Whoever gives none relies on them: another value would change their runs without a word."""
    rule = kind(Slices())
    assert {name: getattr(rule, name) for name in defaults} == defaults
