"""Rules of three kinds, under every strategy: those of the papers, over whole parameters, in ten lines of NumPy."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.observe.ledger import Ledger
from minitrain.optim import LAMB, LARS, Matrixwise, Optimizer
from minitrain.parallel.reducer import Reducer
from minitrain.train.build import reduce
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients, train_step
from tests.equivalence.harness import SEED, difference, toy_batch, toy_gpt
from tests.tiers import full

STEPS, LR, BOUND = 3, 0.05, 1e-12
SIZES = (0.0004, 0.003, 1.0)  # megabytes: a bucket a parameter, a few in each, one for all
Tensors = dict[str, np.ndarray]


def newton_schulz(x: Array) -> Array:
    """Five steps towards the orthogonal matrix nearest to a matrix x, whose singular values become about 1."""
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


class Muon(Matrixwise):
    """The momentum, made orthogonal. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024."""

    states = ("momentum",)

    def direction(self, w: Array, g: Array, state: list[Array], decay: bool) -> Array:
        (m,) = state
        m *= 0.9
        m += g
        return m

    def whole(self, x: Array) -> Array:
        return newton_schulz(x.reshape(len(x), -1)).reshape(x.shape) if x.ndim > 1 else x

    def update_with(self, w: Array, y: Array, lr: float, decay: bool) -> None:
        w -= lr * (y + 0.1 * w if decay else y)


# The same over whole parameters: (w, g, what is remembered, number of the update, whether weight decay applies) -> w --


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

# name -> (axes of the mesh, what reduces gradients, options of `reduce`)
PLACES: dict[str, tuple[dict[str, int], str, dict[str, Any]]] = {
    "dp 3": ({"dp": 3}, "bucketed", {}),
    "dp 3 naive": ({"dp": 3}, "naive", {}),
    "zero1 3": ({"dp": 3}, "zero1", {}),
    "zero2 3": ({"dp": 3}, "zero2", {}),
    "zero3 3": ({"dp": 3}, "zero3", {}),
    "tp 2": ({"tp": 2}, "bucketed", {}),
    "tp 3": ({"tp": 3}, "bucketed", {}),
    "sp 2": ({"tp": 2}, "bucketed", {"sequence": True}),
    "pp 2": ({"pp": 2}, "bucketed", {}),
    "pp 4 zero1": ({"pp": 4}, "zero1", {}),
    "dp 2 tp 2": ({"dp": 2, "tp": 2}, "bucketed", {}),
    "dp 2 tp 2 zero3": ({"dp": 2, "tp": 2}, "zero3", {}),
    "dp 2 sp 2 zero2": ({"dp": 2, "tp": 2}, "zero2", {"sequence": True}),
    "dp 2 pp 2 zero1": ({"dp": 2, "pp": 2}, "zero1", {}),
    "dp 2 pp 2 tp 2 zero1": ({"dp": 2, "pp": 2, "tp": 2}, "zero1", {}),
}
FIRST = ("zero2 3", "tp 3", "dp 2 sp 2 zero2", "dp 2 pp 2 zero1")


@cache
def true(rule: str) -> tuple[list[float], Tensors]:
    """Losses, and the parameters in the end: one process, gradients by the library, everything else by NumPy."""
    model, world = toy_gpt(), world_of_one()
    gradients = reduce(model, Mesh(world), "bucketed", 1.0, SEED)
    states: dict[str, Tensors] = {p.placement.path: {} for p in model.parameters()}
    losses = []
    for t in range(1, STEPS + 1):
        losses.append(compute_gradients(model, toy_batch(t), gradients))
        for p in model.parameters():
            if p.requires_grad:
                assert p.grad is not None
                p.data = RULES[rule][1](p.data, p.grad, states[p.placement.path], t, p.decay)
    return losses, gather(model, world, gradients=gradients)


def train(world: Communicator, rule: str, place: str, bucket_mb: float = 0.003) -> tuple[list[float], Tensors, Ledger]:
    axes, how, options = PLACES[place]
    model, mesh, losses, book = toy_gpt(), Mesh(world, **axes), [], Ledger()
    gradients = reduce(model, mesh, how, bucket_mb, SEED, owners=OWNERS.get(rule, "elements"), **options)
    optimizer = RULES[rule][0](gradients)
    with book.open():
        for t in range(1, STEPS + 1):
            mine = toy_batch(t).part(mesh.part("samples"), mesh.parts("samples"))
            loss, _ = train_step(model, mine, gradients, optimizer, LR, 2 if mesh.parts("layers") > 1 else 1)
            losses.append(sum(mesh.over("samples", "layers").gather_objects(loss)))
    check_memory(gradients, optimizer, how)
    return losses, gather(model, world, gradients=gradients), book


def check_memory(gradients: Reducer, optimizer: Optimizer, how: str) -> None:
    """Under ZeRO a rank has the state of what it owns, and of nothing else; together the ranks have all of it once."""
    for bucket, state in zip(gradients.trained, optimizer.state, strict=True):
        assert len(state) == len(optimizer.states)
        for array in state:
            assert array.size == (bucket.own.stop - bucket.own.start if how.startswith("zero") else bucket.size)
        assert sum(cut.stop - cut.start for cut in bucket.cuts) == bucket.size
        if optimizer.owners == "parameters":
            borders = {0, *(piece.stop for piece in bucket.pieces.values())}
            assert {border for cut in bucket.cuts for border in (cut.start, cut.stop)} <= borders


def on_ranks(rule: str, place: str, bucket_mb: float = 0.003) -> list[tuple[list[float], Tensors, Ledger]]:
    ranks = math.prod(PLACES[place][0].values())
    return threads.run(ranks, lambda world: train(RingCommunicator(world), rule, place, bucket_mb), timeout=60)


@pytest.mark.parametrize("place", [place if place in FIRST else full(place) for place in PLACES])
@pytest.mark.parametrize("rule", RULES)
def test_whole_parameters(rule: str, place: str) -> None:
    """What stands in which bucket, on which rank, cut where, makes no difference."""
    losses, parameters = true(rule)
    for found in on_ranks(rule, place):
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
    """On the ring, with one micro-batch: the same chunks are added up in the same order, and squares as well."""
    plain = on_ranks(rule, "dp 3")[0][1]
    for _, parameters, _ in on_ranks(rule, place):
        assert all(np.array_equal(parameters[path], plain[path]) for path in plain)


@pytest.mark.parametrize(
    "place", ["dp 3", "zero1 3", "tp 3", full("zero3 3"), full("dp 2 tp 2"), full("dp 2 tp 2 zero3")]
)
@pytest.mark.parametrize("rule", RULES)
def test_bytes(rule: str, place: str) -> None:
    """Gradients as ever, 2 (N-1) M at stages 0 and 1 also for cuts that are uneven; norms and matrices by formula."""
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


DIVIDED = ("qkv", "proj.weight", "up", "down.weight", "tokens", "classifier")


def test_owners_have_about_the_same_load() -> None:
    """No rank has more than the even share and the largest parameter; each has something."""

    def program(world: Communicator) -> int:
        gradients = reduce(toy_gpt(), Mesh(world, dp=3), "zero1", 0.003, SEED, owners="parameters")
        return sum(len(it.data) for it in gradients.held())

    found = threads.run(3, program)
    trained = [math.prod(p.shape) for p in toy_gpt().parameters() if p.requires_grad]
    assert sum(found) == sum(trained)
    assert 0 < min(found) and max(found) <= sum(trained) / 3 + max(trained)
