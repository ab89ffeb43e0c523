"""Segments: what is saved and for how long, what is computed twice, and that nothing else changes."""

import math
from typing import Any

import numpy as np
import pytest

from minitrain import functional as F
from minitrain.autograd import no_grad
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Module
from minitrain.observe.ledger import Ledger
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.recompute import Segment, segments
from minitrain.parallel.strategy import Strategy
from minitrain.tensor import Tensor
from minitrain.train.step import compute_gradients
from tests.equivalence.harness import toy_batch, toy_gpt

BYTES = 4096


class Layer(Module):
    """Saves its result, which is as large as its input."""

    def __call__(self, x: Tensor, batch: Any) -> Tensor:
        return F.tanh(x)


def fullest(ledger: Ledger, kind: str = "activations") -> int:
    assert ledger.history is not None
    return max(live.get(kind, 0) for live in ledger.history)


@pytest.mark.parametrize(("layers", "length"), [(16, 1), (16, 2), (16, 4), (16, 8), (16, 16), (64, 8), (10, 3), (7, 5)])
def test_a_chain_of_equal_layers(layers: int, length: int) -> None:
    """The peak is the maximum over segments i = 1, 2, ... of i + length_i arrays: 17, 10, 8, 10, 17 for 16 layers."""
    x = Tensor(np.linspace(-1, 1, BYTES // 8), requires_grad=True)
    y = x
    ledger = Ledger(history=True)
    with ledger.open():
        for segment in segments([Layer() for _ in range(layers)], length, replay=True):
            y = segment(y, None)  # type: ignore[arg-type]
        F.sum(y).backward()
    lengths = [min(length, layers - i) for i in range(0, layers, length)]
    assert fullest(ledger) == max(i + n for i, n in enumerate(lengths, start=1)) * BYTES
    assert x.grad is not None
    once = Tensor(x.data, requires_grad=True)
    y = once
    for _ in range(layers):
        y = F.tanh(y)
    F.sum(y).backward()
    assert once.grad is not None and np.array_equal(x.grad, once.grad)


B, T, V, D = 4, 16, 32, 24


def batch() -> Batch:
    ids = np.random.default_rng(0).integers(0, V, (B, T + 1))
    return Batch(ids[:, :-1], ids[:, 1:], Where(1, 0, B, T, slice(0, B), slice(0, T)))


def kept(unit: Module, x: Tensor | None) -> tuple[int, Tensor]:
    """Return the activation bytes that a unit's operations save by themselves, and its result."""
    with Ledger().open() as ledger:
        y = unit(x, batch())
        return ledger.live["activations"], Tensor(y.data, requires_grad=True)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
def test_a_gpt(length: int) -> None:
    """max over segments i of (i - 1) BTD + the sum of A over their units. The first segment's inputs are ids."""
    made = gpt(GPTConfig(V, T, layers=6, heads=3, width=D))
    made.init(1)
    A, x = [], None
    for unit in made.units:
        bytes_kept, x = kept(unit, x)
        A.append(bytes_kept)
    BTD = B * T * D * 4
    cut = [A[i : i + length] for i in range(0, len(A), length)]
    expected = max(i * BTD + sum(part) for i, part in enumerate(cut))

    model = gpt(GPTConfig(V, T, layers=6, heads=3, width=D))
    reducer = parallelize(model, Mesh(world_of_one()), Strategy(recompute=length))
    reducer.init(1)
    with Ledger(history=True).open() as ledger:
        compute_gradients(model, batch(), reducer)
    assert fullest(ledger) == expected


def flops(model: Model, recompute: int) -> int:
    reducer = parallelize(model, Mesh(world_of_one()), Strategy(recompute=recompute))
    reducer.init(1)
    with Ledger().open() as ledger:
        compute_gradients(model, batch(), reducer)
    return ledger.flops


@pytest.mark.parametrize("length", [1, 3, 8])
def test_one_more_forward(length: int) -> None:
    made = gpt(GPTConfig(V, T, layers=6, heads=3, width=D))
    made.init(1)
    with Ledger().open() as once, no_grad():
        made(batch())
    sizes = GPTConfig(V, T, layers=6, heads=3, width=D)
    assert flops(gpt(sizes), length) == flops(gpt(sizes), 0) + once.flops


@pytest.mark.parametrize("replay", [False, True])
def test_gradients_have_the_same_bits_and_hooks_fire_once(replay: bool) -> None:
    """Dropout replays identically. A tied weight fires after both of its segments, and nothing fires in the replay."""

    unused = "blocks.0.unused"  # fires with its segment: the tape sees only the segment's edges

    def reducer(model: Model) -> dict[str, np.ndarray]:
        model.init(1)
        fired: list[str] = []
        for p in model.parameters():
            p.on_ready = lambda p: fired.append(p.placement.path)
        model(toy_batch(0)).backward()
        assert len(fired) == len(set(fired))
        assert {p.placement.path for p in model.parameters() if p.grad is not None} == set(fired) - {unused}
        return {p.placement.path: p.grad for p in model.parameters() if p.grad is not None}

    plain, cut = toy_gpt(), toy_gpt()
    cut.units = [*segments(cut.units, 2, replay)]
    a, b = reducer(plain), reducer(cut)
    assert {k: v.tobytes() for k, v in a.items()} == {k: v.tobytes() for k, v in b.items()}


def test_the_order_in_which_parameters_fire_is_that_of_buckets() -> None:
    """Parameters used last fire first, also inside a segment."""
    cut = toy_gpt(tied=False)
    cut.init(1)
    cut.units = [*segments(cut.units, 2, replay=True)]
    fired: list[Any] = []
    for p in cut.parameters():
        p.on_ready = fired.append
    cut(toy_batch(0)).backward()
    order = [p for p in reversed(cut.parameters()) if p in fired]
    assert fired == order


def test_around_surrounds_forward_and_backward() -> None:
    from contextlib import contextmanager

    seen: list[str] = []

    @contextmanager
    def around(units: Any) -> Any:
        seen.append("in")
        yield
        seen.append("out")

    x = Tensor(np.ones(3), requires_grad=True)
    for replay in (False, True):
        seen.clear()
        y = Segment([Layer(), Layer()], replay, around)(x, None)  # type: ignore[arg-type]
        assert seen == ["in", "out"]
        F.sum(y).backward()
        assert seen == ["in", "out"] * 2


def test_an_input_without_a_gradient() -> None:
    """The segment's parameters still get gradients. Without a tape nothing is saved."""
    cut = toy_gpt()
    cut.init(1)
    first, second = cut.units[0], cut.units[1]
    with no_grad():
        x = first(None, toy_batch(0))
    y = Segment([second], replay=True)(x, toy_batch(0))
    F.sum(y).backward()
    assert sum(p.grad is not None for p in second.parameters()) > 5
    with no_grad():
        assert Segment([second], replay=True)(x, toy_batch(0)).node is None


def test_segments_cover_the_units() -> None:
    units: list[Module] = [Layer() for _ in range(7)]
    made: list[Any] = segments(units, 3, replay=False)
    assert [len(s.units) for s in made] == [3, 3, 1] and [u for s in made for u in s.units] == units
    assert math.ceil(7 / 3) == len(made)
