"""Three optimizers under every strategy, compared with the papers' formulas on whole parameters, in plain NumPy."""

import copy
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError
from minitrain.nn import Parameter
from minitrain.observe.ledger import Ledger
from minitrain.optim import LAMB, LARS, SGD, AdamW, Matrixwise, Optimizer, Part, State
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.precision import StaticPolicy, use
from minitrain.train.checkpoint import gather, gather_state, restore
from minitrain.train.step import compute_gradients, train_step
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import SEED, difference, toy_batch, toy_gpt
from tests.strategies import named
from tests.tiers import full

STEPS, LR, BOUND = 3, 0.05, 1e-12
SIZES = (0.0004, 0.003, 1.0)  # MiB: one bucket per parameter, a few parameters per bucket, one bucket for all
Tensors = dict[str, np.ndarray]


def newton_schulz(x: Array) -> Array:
    """Five steps toward the orthogonal matrix nearest to x: its singular values become about 1."""
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


class Muon(Matrixwise):
    """Orthogonalized momentum. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024."""

    states = ("momentum",)

    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        (m,) = state
        m *= 0.9
        m += g
        return m

    def whole(self, p: Parameter, x: Array) -> Array:
        return newton_schulz(x.reshape(len(x), -1)).reshape(x.shape) if x.ndim > 1 else x

    def update_with(self, p: Parameter, w: Array, y: Array, lr: float, decay: bool) -> None:
        w -= lr * (y + 0.1 * w if decay else y)


# The same rules on whole parameters: (w, g, state, number of the update, whether weight decay applies) -> w -----------


def numpy_lars(w: Array, g: Array, s: Tensors, t: int, decay: bool) -> Array:
    g_norm, w_norm, beta = np.linalg.norm(g), np.linalg.norm(w), 0.1 * decay
    ratio = 0.02 * w_norm / (g_norm + beta * w_norm) if w_norm and g_norm else 1
    s["v"] = 0.9 * s.get("v", 0) + LR * ratio * (g + beta * w)
    return w - s["v"]


def numpy_lamb(w: Array, g: Array, s: Tensors, t: int, decay: bool) -> Array:
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g**2
    x = s["m"] / (1 - 0.9**t) / (np.sqrt(s["v"] / (1 - 0.99**t)) + 0.01) + 0.1 * decay * w
    w_norm, x_norm = np.linalg.norm(w), np.linalg.norm(x)
    return w - LR * (w_norm / x_norm if w_norm and x_norm else 1) * x


def numpy_muon(w: Array, g: Array, s: Tensors, t: int, decay: bool) -> Array:
    s["m"] = 0.9 * s.get("m", 0) + g
    y = newton_schulz(s["m"].reshape(len(w), -1)).reshape(w.shape) if w.ndim > 1 else s["m"]
    return w - LR * (y + 0.1 * w * decay)


Make = Callable[[Reducer], Optimizer]
RULES: dict[str, tuple[Make, Callable[..., Array]]] = {
    "lars": (lambda it: LARS(it, momentum=0.9, weight_decay=0.1, eta=0.02), numpy_lars),
    "lamb": (lambda it: LAMB(it, beta2=0.99, epsilon=0.01, weight_decay=0.1), numpy_lamb),
    "muon": (Muon, numpy_muon),
}
OWNERS = {"muon": "parameters"}

# name -> (axes of the mesh, name of the reducer, options of the strategy)
PLACES: dict[str, tuple[dict[str, int], str, dict[str, Any]]] = {
    "dp 3": ({"dp": 3}, "bucketed", {}),
    "dp 3 naive": ({"dp": 3}, "naive", {}),
    "zero1 3": ({"dp": 3}, "zero1", {}),
    "zero2 3": ({"dp": 3}, "zero2", {}),
    "zero3 3": ({"dp": 3}, "zero3", {}),
    "zero1 2": ({"dp": 2}, "zero1", {}),
    "tp 2": ({"tp": 2}, "bucketed", {}),
    "tp 3": ({"tp": 3}, "bucketed", {}),
    "sp 2": ({"tp": 2}, "bucketed", {"sp": True}),
    "pp 2": ({"pp": 2}, "bucketed", {}),
    "pp 4 zero1": ({"pp": 4}, "zero1", {}),
    "dp 2 tp 2": ({"dp": 2, "tp": 2}, "bucketed", {}),
    "dp 2 tp 2 zero3": ({"dp": 2, "tp": 2}, "zero3", {}),
    "dp 2 sp 2 zero2": ({"dp": 2, "tp": 2}, "zero2", {"sp": True}),
    "dp 2 pp 2 zero1": ({"dp": 2, "pp": 2}, "zero1", {}),
    "dp 2 pp 2 tp 2 zero1": ({"dp": 2, "pp": 2, "tp": 2}, "zero1", {}),
}
FIRST = ("zero2 3", "tp 3", "dp 2 sp 2 zero2", "dp 2 pp 2 zero1")


@cache
def true(rule: str) -> tuple[list[float], Tensors]:
    """Return the losses and final parameters of one process: gradients by the library, everything else by NumPy."""
    model, world = toy_gpt(), world_of_one()
    reducer = parallelize(model, Mesh(world))
    reducer.init(SEED)
    states: dict[str, Tensors] = {p.placement.path: {} for p in model.parameters()}
    losses = []
    for t in range(1, STEPS + 1):
        losses.append(compute_gradients(model, toy_batch(t), reducer))
        for p in model.parameters():
            if p.requires_grad:
                assert p.grad is not None
                p.data = RULES[rule][1](p.data, p.grad, states[p.placement.path], t, p.decay)
    return losses, gather(model, world, reducer=reducer)


def train(
    world: Communicator, rule: str, place: str, bucket_mb: float, make: Make | None, **hooks: Any
) -> tuple[list[float], Tensors, Ledger]:
    """Train for STEPS steps. Planted bugs enter through `make` and `doors`."""
    axes, how, options = PLACES[place]
    model, mesh, losses, book = toy_gpt(), Mesh(world, **axes), [], Ledger()
    strategy = named(how, bucket_mb=bucket_mb, owners=OWNERS.get(rule, "elements"), **options)
    reducer = parallelize(model, mesh, strategy, **hooks)
    reducer.init(SEED)
    optimizer = (make or RULES[rule][0])(reducer)
    with book.open():
        for t in range(1, STEPS + 1):
            mine = toy_batch(t).part(mesh.part("samples"), mesh.parts("samples"))
            loss, _ = train_step(model, mine, reducer, optimizer, LR, 2 if mesh.parts("layers") > 1 else 1)
            losses.append(sum(mesh.over("samples", "layers").gather_objects(loss)))
    check_memory(reducer, optimizer, how)
    return losses, gather(model, world, reducer=reducer), book


def check_memory(reducer: Reducer, optimizer: Optimizer, how: str) -> None:
    """Under ZeRO a rank holds state only for what it owns; together the ranks hold all of it once."""
    for bucket, state in zip(reducer.trained, optimizer.state, strict=True):
        assert len(state) == len(optimizer.states)
        for array in state:
            assert array.size == (
                bucket.own_shard.stop - bucket.own_shard.start if how.startswith("zero") else bucket.size
            )
        assert sum(cut.stop - cut.start for cut in bucket.shards) == bucket.size
        if optimizer.owners == "parameters":
            borders = {0, *(piece.stop for piece in bucket.pieces.values())}
            assert {border for cut in bucket.shards for border in (cut.start, cut.stop)} <= borders


def on_ranks(
    rule: str, place: str, bucket_mb: float = 0.003, make: Make | None = None, **hooks: Any
) -> list[tuple[list[float], Tensors, Ledger]]:
    program = lambda world: train(RingCommunicator(world), rule, place, bucket_mb, make, **hooks)
    return threads.run(math.prod(PLACES[place][0].values()), program, timeout=60)


@pytest.mark.parametrize("place", [place if place in FIRST else full(place) for place in PLACES])
@pytest.mark.parametrize("rule", RULES)
def test_whole_parameters(rule: str, place: str, make: Make | None = None, **hooks: Any) -> None:
    """The assignment of parameters to buckets and ranks, and where they are cut, makes no difference."""
    losses, parameters = true(rule)
    for found in on_ranks(rule, place, make=make, **hooks):
        np.testing.assert_allclose(found[0], losses, rtol=BOUND)
        assert difference(found[1], parameters) <= BOUND


@pytest.mark.parametrize("bucket_mb", [SIZES[0], full(SIZES[2])])
@pytest.mark.parametrize("place", ["dp 3", full("zero3 3"), full("dp 2 tp 2 zero3")])
@pytest.mark.parametrize("rule", RULES)
def test_any_size_of_buckets(rule: str, place: str, bucket_mb: float) -> None:
    found = on_ranks(rule, place, bucket_mb)[-1]
    assert difference(found[1], true(rule)[1]) <= BOUND


@pytest.mark.parametrize("place", ["zero1 3", full("zero2 3"), "zero3 3"])
@pytest.mark.parametrize("rule", RULES)
def test_bit_for_bit_over_the_stages(rule: str, place: str) -> None:
    """On the ring with one micro-batch, the same chunks and squares are added in the same order."""
    plain = on_ranks(rule, "dp 3")[0][1]
    for _, parameters, _ in on_ranks(rule, place):
        assert all(np.array_equal(parameters[path], plain[path]) for path in plain)


@pytest.mark.parametrize(
    "place", ["dp 3", "zero1 3", "tp 3", full("zero3 3"), full("dp 2 tp 2"), full("dp 2 tp 2 zero3")]
)
@pytest.mark.parametrize("rule", RULES)
def test_bytes(rule: str, place: str) -> None:
    """Gradients send 2 (N-1) M at stages 0 and 1, even for uneven cuts; norms and matrices match their formulas."""
    axes, how, _ = PLACES[place]
    n, t, item = axes.get("dp", 1), axes.get("tp", 1), 8
    model = toy_gpt()
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = sum(math.prod(p.shape) for p in trained)
    divided = [p for p in trained if t > 1 and any(part in p.placement.path for part in DIVIDED)]
    books = [book for *_, book in on_ranks(rule, place)]
    sent = lambda tag: sum(book.bytes[tag] for book in books)
    if t == 1 and how in ("bucketed", "zero1"):
        assert sent(("dp", "gradients")) + sent(("dp", "parameters")) == STEPS * 2 * (n - 1) * whole * item
    zero, layerwise = how.startswith("zero"), rule != "muon"
    assert sent(("dp", "norms")) == STEPS * t * n * (n - 1) * 16 * len(trained) * (zero and layerwise)
    assert sent(("tp", "norms")) == STEPS * n * t * (t - 1) * 16 * len(divided) * layerwise
    owners = 1 if zero else n
    size = sum(math.prod(p.shape) for p in divided) * item
    assert sent(("tp", "matrices")) == STEPS * owners * (t - 1) * size * (rule == "muon")


# Named state ----------------------------------------------------------------------------------------------------------


def plain_sgd(it: Reducer) -> Optimizer:
    return SGD(it, momentum=0.9, weight_decay=0.1)


def adamw(it: Reducer) -> Optimizer:
    return AdamW(it, epsilon=0.01)


STATEFUL: dict[str, Make] = {name: make for name, (make, _) in RULES.items()} | {"adamw": adamw, "sgd": plain_sgd}


@dataclass
class Run:
    """A run that can stop after any step and be resumed by another."""

    world: Communicator
    rule: str
    place: str
    half: bool = False

    def __post_init__(self) -> None:
        axes, how, options = PLACES[self.place] if self.world.size > 1 else ({}, "bucketed", {})
        self.model, self.mesh = toy_gpt("float32" if self.half else "float64"), Mesh(self.world, **axes)
        if self.half:
            use(self.model, StaticPolicy("mixed_bfloat16"), half_weights=True)
        owners = OWNERS.get(self.rule, "elements")
        self.reducer = parallelize(self.model, self.mesh, named(how, bucket_mb=0.003, owners=owners, **options))
        self.reducer.init(SEED)
        self.optimizer = STATEFUL[self.rule](self.reducer)

    def steps(self, numbers: range) -> None:
        for number in numbers:
            mine = toy_batch(number).part(self.mesh.part("samples"), self.mesh.parts("samples"))
            micros = 2 if self.mesh.parts("layers") > 1 else 1
            train_step(self.model, mine, self.reducer, self.optimizer, LR, micros)

    def weights(self) -> Tensors:
        return gather(self.model, self.world, reducer=self.reducer)

    def go_on(self, weights: Tensors, state: State) -> None:
        restore(self.model, weights, strict=False)
        self.optimizer.load_state_dict(state)


@cache
def half_way(rule: str, half: bool) -> tuple[Tensors, Any]:
    """Return the weights and state of a run on one process after two steps."""
    run = Run(world_of_one(), rule, "dp 3", half)
    run.steps(range(2))
    return run.weights(), gather_state(run.optimizer.state_dict(), run.world)


STATE_PLACES = (
    "dp 3",
    "zero1 3",
    "zero2 3",
    "zero3 3",
    "tp 3",
    "dp 2 sp 2 zero2",
    "pp 4 zero1",
    "dp 2 pp 2 tp 2 zero1",
)


def first(rule: str, place: str) -> bool:
    """Return whether the first tier has it: every rule, and those of whole layers or matrices in a second place."""
    return place == "zero3 3" or (place == "dp 2 sp 2 zero2" and rule in ("lamb", "muon"))


@pytest.mark.parametrize("half", [False, full(True)])
@pytest.mark.parametrize(
    ("rule", "place"), [(r, p) if first(r, p) else full(r, p) for r in STATEFUL for p in STATE_PLACES]
)
def test_state_goes_on_bit_for_bit(rule: str, place: str, half: bool) -> None:
    """State loaded into a fresh run resumes it bit for bit; gathered, it equals the state of one process."""

    def program(world: Communicator) -> tuple[Tensors, Tensors, Any]:
        run, fresh = (Run(RingCommunicator(world), rule, place, half) for _ in range(2))
        run.steps(range(2))
        weights, state = run.weights(), run.optimizer.state_dict()
        kept = copy.deepcopy(state)
        run.steps(range(2, 4))
        assert same_state(state, kept), "a copy: what comes later does not change it"
        fresh.go_on(weights, state)
        assert same_state(fresh.optimizer.state_dict(), state)
        fresh.steps(range(2, 4))
        assert same_state(fresh.optimizer.state_dict(), run.optimizer.state_dict())
        return run.weights(), fresh.weights(), gather_state(state, world)

    ranks = math.prod(PLACES[place][0].values())
    _, true_state = half_way(rule, half)
    for uninterrupted, resumed, state in threads.run(ranks, program, timeout=60):
        assert all(np.array_equal(uninterrupted[path], resumed[path]) for path in uninterrupted)
        assert state.keys() == true_state.keys() and state["updates"] == true_state["updates"] == 2
        arrays = [{name: x for name, x in it.items() if isinstance(x, np.ndarray)} for it in (state, true_state)]
        if not half:
            for name in arrays[0]:  # compare each kind separately: v is much smaller than m
                kind = name.rpartition(".")[2]
                pick = lambda tensors, kind=kind: {k: x for k, x in tensors.items() if k.endswith(kind)}
                assert difference(pick(arrays[0]), pick(arrays[1])) <= BOUND


def same_state(a: State, b: State) -> bool:
    if a.keys() != b.keys():
        return False
    for name, part in a.items():
        other = b[name]
        if isinstance(part, Part) and isinstance(other, Part):
            if part[1:] != other[1:] or not np.array_equal(part.array, other.array):
                return False
        elif part != other:
            return False
    return True


@pytest.mark.parametrize("place", ["dp 2 sp 2 zero2", full("zero3 3"), full("pp 4 zero1")])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_a_whole_state_is_loaded_on_any_mesh(rule: str, place: str) -> None:
    """A state from one process loads on several, and the run continues as it would have."""
    weights, state = half_way(rule, False)
    alone = Run(world_of_one(), rule, place)
    alone.go_on(weights, state)
    alone.steps(range(2, 4))

    def program(world: Communicator) -> Tensors:
        run = Run(RingCommunicator(world), rule, place)
        run.go_on(weights, state)
        run.steps(range(2, 4))
        return run.weights()

    for found in threads.run(math.prod(PLACES[place][0].values()), program, timeout=60):
        assert difference(found, alone.weights()) <= BOUND


def test_what_is_no_state_of_this_optimizer() -> None:
    run = Run(world_of_one(), "adamw", "dp 3")
    run.steps(range(1))
    before: Any = run.optimizer.state_dict()
    lamb, sgd = (Run(world_of_one(), rule, "dp 3") for rule in ("lamb", "sgd"))
    for other in (lamb, sgd):
        other.steps(range(1))
    lamb.optimizer.load_state_dict(before)  # LAMB has the same state names as AdamW
    path = "blocks.0.attn.proj.weight"
    wrong: list[tuple[Any, str]] = [
        (None, "expected the result of"),
        ({}, "expected the result of"),
        ({**before, "updates": -1}, "updates is -1"),
        ({"updates": 3}, r"lacks blocks\.0\.attn\.proj\.bias\.m, .* more"),
        (sgd.optimizer.state_dict(), r"lacks .*\.m, .*\n.*this optimizer is AdamW"),
        ({**before, "more.m": before[f"{path}.m"]}, r"has entries that the optimizer lacks: more\.m\."),
        ({**before, f"{path}.m": before[f"{path}.v"].array[:-1]}, rf"the state has .* for {path}\.m"),
        ({**before, f"{path}.m": before["blocks.0.attn.proj.bias.m"]}, rf"the state has .* for {path}\.m"),
        ({**before, f"{path}.m": before[f"{path}.m"]._replace(array=np.zeros(81, "float32"))}, "the state has float32"),
    ]
    for state, says in wrong:
        with pytest.raises(UserError, match=says):
            run.optimizer.load_state_dict(state)
        assert same_state(run.optimizer.state_dict(), before)


@pytest.mark.parametrize("ranks", [1, 2])
def test_whole_arrays_of_other_parameters(ranks: int) -> None:
    """Arrays of parameters that other ranks hold are ignored; those of unknown parameters are refused, on any mesh."""
    _, state = half_way("adamw", False)
    more = {**state, "blocks.9.mlp.up.weight.m": np.zeros((9, 36))}

    def program(world: Communicator) -> None:
        run = Run(RingCommunicator(world), "adamw", "zero1 2" if ranks == 2 else "dp 3")
        run.optimizer.load_state_dict(state)
        with pytest.raises(UserError, match=r"has entries that the optimizer lacks: blocks\.9\.mlp\.up\.weight\.m"):
            run.optimizer.load_state_dict(more)

    threads.run(ranks, program)


@pytest.mark.parametrize("axes", [{"tp": 2}, {"dp": 2}])
def test_whole_matrices_are_asked_for(axes: dict[str, int]) -> None:
    """Without whole parameters, buckets follow the local layout and ranks would gather matrices in different orders."""

    def program(world: Communicator) -> None:
        reducer = parallelize(toy_gpt(), Mesh(world, **axes), Strategy(bucket_mb=0.0003))
        with pytest.raises(UserError, match=r'Muon needs whole parameters, .*owners="parameters"'):
            Muon(reducer)

    threads.run(2, program)


def test_a_state_from_before_the_first_update() -> None:
    run, fresh = (Run(world_of_one(), "adamw", "dp 3") for _ in range(2))
    begun = fresh.optimizer.state_dict()
    assert begun == {"updates": 0}
    run.steps(range(1))
    run.optimizer.load_state_dict(begun)
    assert run.optimizer.updates == 0 and run.optimizer.state_dict() == begun


DIVIDED = ("qkv", "proj.weight", "up", "down.weight", "tokens", "classifier")


def test_owners_have_about_the_same_load() -> None:
    """No rank owns more than an even share plus the largest parameter, and every rank owns something."""

    def program(world: Communicator) -> int:
        reducer = parallelize(toy_gpt(), Mesh(world, dp=3), Strategy(zero=1, bucket_mb=0.003, owners="parameters"))
        reducer.init(SEED)
        return sum(len(it.data) for it in reducer.held())

    found = threads.run(3, program)
    trained = [math.prod(p.shape) for p in toy_gpt().parameters() if p.requires_grad]
    assert sum(found) == sum(trained)
    assert 0 < min(found) and max(found) <= sum(trained) / 3 + max(trained)


@pytest.mark.parametrize("optimizer", [Muon, partial(Muon), partial(partial(Muon))])
def test_a_trainer_divides_as_the_optimizer_needs(optimizer: Callable[..., Optimizer]) -> None:
    """The optimizer's class declares that it needs whole parameters, in time to lay them out; a function cannot."""

    def program(world: Communicator) -> Tensors:
        made = Trainer(toy_gpt(), world, optimizer=optimizer, schedule=LR, seed=SEED, strategy=Strategy(zero=3))
        for t in range(1, STEPS + 1):
            made.step(toy_batch(t))
        other = toy_gpt()
        with pytest.raises(UserError, match=r"Muon needs whole parameters, .*\n?.*Strategy\(owners=\"parameters\"\)"):
            Trainer(other, world, optimizer=lambda it: Muon(it), strategy=Strategy(zero=1))
        Trainer(other, world, optimizer=lambda it: Muon(it), strategy=Strategy(zero=1, owners="parameters"))
        return gather(made.model, world, reducer=made.reducer)

    for found in threads.run(3, program):
        assert difference(found, true("muon")[1]) <= BOUND


def test_the_rules_of_the_readme() -> None:
    """The README's optimizers run as printed, on shards as on whole parameters."""
    text = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    section = text.partition("### Your own optimizer\n")[2].partition("\n### ")[0]
    program = textwrap.dedent("".join(re.findall(r"^(?: {4}.*)?\n", section, re.M)))

    def run(world: Communicator, name: str, zero: int) -> Tensors:
        names: dict[str, Any] = {"np": np, "Trainer": Trainer, "world": world, "model": toy_gpt()}
        exec(compile(program, "README.md", "exec"), names)
        made = Trainer(toy_gpt(), world, optimizer=names[name], schedule=0.01, seed=SEED, strategy=Strategy(zero=zero))
        for t in range(STEPS):
            made.step(toy_batch(t))
        return gather(made.model, world, reducer=made.reducer)

    for name in ("Lion", "Relative"):
        alone = run(world_of_one(), name, 0)
        for zero in (0, 2, 3):
            for found in threads.run(3, lambda world, name=name, zero=zero: run(world, name, zero)):  # type: ignore[misc]
                for key in [path for path in alone if path.endswith("qkv.bias")]:  # part of its true gradient is 0,
                    found.pop(key)  # where the sign is a rounding error's
                assert difference(found, {path: alone[path] for path in found}) <= BOUND
