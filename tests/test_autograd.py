"""The tape: each node visited once and in order, complete gradients, hooks fired once, no aliases, no leaks."""

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import fused
from minitrain.autograd import Node, apply, backward, no_grad, recording, without_grad, youngest_first
from minitrain.tensor import Tensor
from tests.tiers import full


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


def gradient(x: Tensor) -> list:
    assert x.grad is not None
    return x.grad.tolist()


@contextmanager
def no_collector() -> Iterator[None]:
    """Disable the garbage collector, so that only objects outside reference cycles are freed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Order ---------------------------------------------------------------------------------------------------------------


def test_a_tensor_used_twice(tensor: type[Tensor] = Tensor) -> None:
    x = tensor([3.0], requires_grad=True)
    (x * x).backward()
    assert gradient(x) == [6.0]


def test_twenty_diamonds() -> None:
    """Two paths per diamond make 2^20 from end to end, but every node is visited once."""
    calls = []

    def step(x: Tensor) -> Tensor:
        def vjp(g: np.ndarray) -> tuple[np.ndarray]:
            calls.append(1)
            return (2 * g,)

        return apply(2 * x.data, (x,), vjp)

    x = y = leaf(1.0)
    for _ in range(20):
        y = step(y) + step(y)
    y.backward()
    assert gradient(x) == [4.0**20]
    assert len(calls) == 40


def test_a_younger_consumer_goes_first() -> None:
    """x is used early and late: depth or breadth first, exp's vjp would run before its gradient is complete."""
    x = leaf(0.5)
    y = F.exp(x)
    z = y
    for _ in range(5):
        z = z * 2.0
    (z + y).backward()
    assert gradient(x) == [33 * np.exp(0.5)]


@pytest.mark.parametrize("n", [10_000, full(300_000)])
def test_a_long_chain(n: int) -> None:
    """Neither backward nor dropping an unused graph recurses."""

    def step(x: Tensor) -> Tensor:
        return apply(x.data, (x,), lambda g: (np.multiply(g, x.data),), saved=(x,))

    with no_collector():  # otherwise collections walk the whole chain many times
        for walked in (True, False):
            x = y = leaf(1.0)
            for _ in range(n):
                y = step(y)
            if walked:
                y.backward()
                assert gradient(x) == [1.0]
            array = weakref.ref(x.data)
            del x, y
            assert array() is None


def test_only_reachable_consumers_count() -> None:
    x = leaf(2.0)
    fired: list[Tensor] = []
    x.on_ready = fired.append
    other = x * 5.0
    (x * 3.0).backward()
    assert gradient(x) == [3.0] and fired == [x]
    other.backward()
    assert gradient(x) == [8.0] and fired == [x, x]


def test_a_node_is_named_by_its_operation() -> None:
    """An embedding has no input to differentiate by, so its name comes from the vjp of its weight."""
    w = Tensor(np.ones((3, 2)), requires_grad=True)
    nodes = [fused.embedding(np.array([0, 1]), w).node, fused.gelu(w * 1.0).node]
    assert [node and node.operation for node in nodes] == ["embedding", "gelu"]


def test_the_order_is_an_argument() -> None:
    """The order argument decides when each node is visited. Any order with consumers first gives the same gradients."""
    x, w = leaf(0.5), leaf(2.0)
    roots = [F.exp(x) * w, F.tanh(w)]
    nodes, consumers = youngest_first(roots)
    assert [node.operation for node in nodes] == ["tanh", "multiply", "exp"] and consumers == {w: 2, x: 1}
    operations: list[str] = []

    def another(roots: Sequence[Tensor]) -> tuple[list[Node], dict[Tensor, int]]:
        (tanh, multiply, exp), consumers = youngest_first(roots)
        operations.extend(node.operation for node in (multiply, exp, tanh))
        return [multiply, exp, tanh], consumers

    backward(roots, [np.ones(1)] * 2, order=another)
    assert operations == ["multiply", "exp", "tanh"]
    assert gradient(x) == [2 * np.exp(0.5)] and gradient(w) == [np.exp(0.5) + (1 - np.tanh(2.0) ** 2)]


# Roots ---------------------------------------------------------------------------------------------------------------


def test_two_roots() -> None:
    x = leaf(1.0, 2.0)
    fired: list[Tensor] = []
    x.on_ready = fired.append
    shared = x * x
    a, b = F.exp(shared), shared * 3.0
    ga, gb = np.array([1.0, 10.0]), np.array([100.0, 1000.0])
    backward([a, b], [ga, gb])
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, (ga * np.exp(x.data**2) + 3 * gb) * 2 * x.data, rtol=1e-14)
    assert fired == [x]
    assert (ga.tolist(), gb.tolist()) == ([1.0, 10.0], [100.0, 1000.0])


def test_a_root_below_another_and_a_root_twice() -> None:
    x = leaf(3.0)
    y = x * x
    z = y * 5.0
    backward([z, y, y])
    assert gradient(x) == [6 * (5 + 1 + 1)]


def test_a_leaf_as_root() -> None:
    x, g = leaf(1.0, 2.0), np.array([3.0, 4.0])
    backward([x, x + 0.0], [g, g])
    assert gradient(x) == [6.0, 8.0]
    x.grad = None
    x.backward(g)
    assert gradient(x) == [3.0, 4.0] and not np.shares_memory(x.grad, g)


def test_roots_are_checked() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a gradient"):
        (x * 2.0).backward()
    with pytest.raises(RuntimeError, match=r"shape \(2,\), the gradient \(1,\)"):
        (x * 2.0).backward(np.ones(1))
    with pytest.raises(RuntimeError, match="requires a gradient"):
        Tensor(1.0).backward()


def test_the_gradient_of_a_root_has_its_dtype() -> None:
    """NumPy would continue in float64 down to the leaf."""
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    try:
        (x * 2.0).backward(np.ones(2))
    except (RuntimeError, TypeError):
        return
    assert x.grad is not None and x.grad.dtype == np.float32


def test_a_second_backward_is_refused() -> None:
    x = leaf(1.0)
    y = F.exp(x)
    z = y * 2.0
    other = y * 3.0
    z.backward()
    for freed in (z, y, other):  # also through another path
        with pytest.raises(RuntimeError, match="freed by an earlier backward"):
            freed.backward()
    assert gradient(x) == [2 * np.exp(1.0)]
    F.exp(x).backward()  # leaves are not freed; their gradients accumulate
    assert gradient(x) == [3 * np.exp(1.0)]


# Hooks ---------------------------------------------------------------------------------------------------------------


def test_a_hook_fires_once_after_the_last_of_three_consumers() -> None:
    """The leaf is an activation, a parameter, and both: a token table that is also the classifier."""
    w, x = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True), Tensor(np.ones((4, 2)), requires_grad=True)
    seen: dict[str, np.ndarray] = {}

    def hook(name: str) -> Callable[[Tensor], None]:
        def record(leaf: Tensor) -> None:
            assert name not in seen and leaf.grad is not None
            seen[name] = leaf.grad.copy()

        return record

    w.on_ready, x.on_ready = hook("w"), hook("x")
    y = fused.embedding(np.array([0, 2, 2, 1]), w) + x
    loss = F.sum(fused.linear_transposed(y, w)) + F.sum(w * w)
    loss.backward()
    expected = np.array([[1.0], [1.0], [2.0]]) * w.data.sum(0) + y.data.sum(0) + 2 * w.data
    np.testing.assert_array_equal(seen["w"], expected)
    np.testing.assert_array_equal(w.grad, expected)
    np.testing.assert_array_equal(seen["x"], x.grad)


def test_hooks_fire_as_soon_as_possible() -> None:
    """Hooks fire from the last layer down, each before the next layer is visited. Overlap depends on this."""
    layers = [leaf(float(i + 2)) for i in range(3)]
    order = []
    y = Tensor(np.ones(1))
    for i, w in enumerate(layers):
        w.on_ready = lambda w, i=i: order.append((i, [v.grad is not None for v in layers]))
        y = y * w
    y.backward()
    assert order == [(2, [False, False, True]), (1, [False, True, True]), (0, [True, True, True])]


def test_fire_false_fires_nothing() -> None:
    x, w = leaf(1.0), Tensor(np.ones((1, 1)), requires_grad=True)
    fired: list[Tensor] = []
    x.on_ready = w.on_ready = fired.append
    backward([fused.linear(x, w)], fire=False)
    assert not fired and gradient(x) == [1.0] and w.grad is not None


# Deferred ------------------------------------------------------------------------------------------------------------


def two_layers() -> tuple[list[Tensor], Tensor]:
    """Return linear(linear(x)) with one weight, also used as an activation; integers, so that sums are exact."""
    rng = np.random.default_rng(0)
    x, w, b = (Tensor(rng.integers(-9, 9, s).astype(float), requires_grad=True) for s in [(4, 3), (3, 3), (3,)])
    y = fused.linear(fused.linear(x, w, b), w) + x
    return [x, w, b], F.sum(y * y) + F.sum(w)


def test_defer() -> None:
    """Parameter gradients are computed when the functions are called. The order of calls does not matter."""
    leaves, loss = two_layers()
    loss.backward()
    expected = [gradient(v) for v in leaves]
    for order in itertools.permutations(range(3)):
        (x, w, b), loss = two_layers()
        fired: list[Tensor] = []
        for v in (x, w, b):
            v.on_ready = fired.append
        work: list[Callable[[], None]] = []
        backward([loss], defer=work.append)
        assert len(work) == 3 and b.grad is None and fired == [x]
        assert gradient(x) == expected[0]
        assert gradient(w) == np.ones((3, 3)).tolist()  # from its use as an activation only
        for i in order:
            assert len(fired) < 3
            work[i]()
        assert [gradient(v) for v in (x, w, b)] == expected
        assert fired[0] is x and set(fired) == {x, w, b} and len(fired) == 3


def test_defer_and_fire_false() -> None:
    (x, w, b), loss = two_layers()
    fired: list[Tensor] = []
    x.on_ready = w.on_ready = b.on_ready = fired.append
    work: list[Callable[[], None]] = []
    backward([loss], defer=work.append, fire=False)
    for function in work:
        function()
    assert not fired and b.grad is not None


# Backward inside a backward ------------------------------------------------------------------------------------------


def test_backward_inside_a_backward() -> None:
    """A segment keeps only its input and recomputes the rest. Recompute and ZeRO-3 depend on this."""

    def inside(x: Tensor, w: Tensor) -> Tensor:
        return F.tanh(fused.linear(F.tanh(x), w))

    inner_fired: list[Tensor] = []

    def segment(x: Tensor, w: Tensor) -> Tensor:
        with no_grad():
            y = inside(x, w)

        replayed: list[Any] = []

        def replay(g: np.ndarray) -> Any:
            if replayed:
                return replayed[0]
            copies = [Tensor(v.data, requires_grad=True) for v in (x, w)]
            copies[0].on_ready = copies[1].on_ready = inner_fired.append
            backward([inside(*copies)], [g], fire=False)
            replayed.append((copies[0].grad, copies[1].grad))
            return replayed[0]

        return apply(y.data, (x,), lambda g: (replay(g)[0],), [(w, lambda g, out=None: replay(g)[1])], (x,))

    results = []
    for function in (inside, segment):
        rng = np.random.default_rng(0)
        x, w = (Tensor(rng.standard_normal(s), requires_grad=True) for s in [(4, 3), (3, 3)])
        fired: list[Tensor] = []
        x.on_ready = w.on_ready = fired.append
        F.sum(function(function(F.exp(x), w), w)).backward()
        assert fired == [w, x] and not inner_fired
        results.append((gradient(x), gradient(w)))
    assert results[0] == results[1]


# no_grad -------------------------------------------------------------------------------------------------------------


def test_no_grad() -> None:
    x = leaf(1.0)
    with no_grad():
        assert not recording()
        y = F.exp(x)
        with no_grad():
            pass
        assert not recording()
    assert y.node is None and not y.requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        _ = 1 / 0
    assert recording() and F.exp(x).node is not None
    assert F.exp(Tensor(1.0)).node is None  # no operand needs a gradient
    assert F.exp(x).detach().node is None


def test_no_grad_is_per_thread() -> None:
    found = []
    with no_grad():
        thread = threading.Thread(target=lambda: found.append(F.exp(leaf(1.0)).requires_grad))
        thread.start()
        thread.join()
    assert found == [True]


# Aliases -------------------------------------------------------------------------------------------------------------


def test_gradients_never_share_memory() -> None:
    """add passes the same array to both operands; an optimizer's write to one must not affect the other."""
    x, y, g = leaf(1.0, 2.0), leaf(3.0, 4.0), np.array([5.0, 6.0])
    (x + y).backward(g)
    F.reshape(x, (1, 2)).backward(g.reshape(1, 2))
    assert x.grad is not None and y.grad is not None
    for a, b in itertools.combinations([x.grad, y.grad, g, x.data, y.data], 2):
        assert not np.shares_memory(a, b)
    assert (gradient(x), gradient(y)) == ([10.0, 12.0], [5.0, 6.0])


def test_accumulating_never_corrupts_an_alias() -> None:
    """h's gradient arrives through add and reshape, which pass their array on, in every order."""
    for order in itertools.permutations(range(4)):
        x = leaf(1.0, 2.0)
        h = x * 1.0
        parts = [h, F.reshape(F.reshape(h, (2, 1)), (2,)), h + 0.0, F.transpose(h)]
        y = parts[order[0]]
        for i in order[1:]:
            y = y + parts[i]
        z = y + F.reshape(y, (2,)) + h
        g = np.array([1.0, 10.0])
        z.backward(g)
        assert gradient(x) == [9.0, 90.0] and g.tolist() == [1.0, 10.0]


def test_gradients_add_up_over_backwards() -> None:
    x = leaf(1.0, 2.0)
    for n in (1, 2, 3):
        before = x.grad
        copy = None if before is None else before.copy()
        (x * 3.0).backward(np.ones(2))
        assert gradient(x) == [3.0 * n] * 2
        assert copy is None or before is None or (before == copy).all()  # the old array may still be referenced


# Memory --------------------------------------------------------------------------------------------------------------


def test_backward_frees_the_graph_as_it_goes() -> None:
    x = leaf(1.0, 2.0)
    alive: list[bool] = []

    def look(g: np.ndarray) -> tuple[np.ndarray]:
        alive.append(array() is not None)
        return (g,)

    with no_collector():
        h = F.exp(apply(x.data * 1.0, (x,), look))
        assert h.node is not None
        array = weakref.ref(h.node.saved[0])
        loss = F.sum(h)
        del h
        assert array() is not None
        loss.backward()
        assert alive == [False] and array() is None


def test_a_graph_that_is_dropped_is_freed() -> None:
    """Graphs are freed without the garbage collector: no operation may create a cycle."""
    w = Tensor(np.ones((2, 3, 1, 2)), requires_grad=True)
    one, zero = Tensor(np.ones(2), requires_grad=True), Tensor(np.zeros(2), requires_grad=True)
    with no_collector():
        x = F.exp(Tensor(np.ones((1, 3, 2)), requires_grad=True))
        array = weakref.ref(x.data)
        y = fused.gelu(fused.causal_attention(fused.linear(fused.layer_norm(x * x, one, zero), w)))
        loss = fused.cross_entropy(F.log_softmax(y), np.zeros((1, 3), int), 3) + F.max(y / x)
        del x, y
        assert array() is not None
        del loss
        assert array() is None


def test_no_grad_inside_of_no_grad() -> None:
    """Only the outer context ends the no_grad state. Reports of where a rank waits depend on this state."""
    here = threading.get_ident()
    with no_grad():
        with no_grad():
            assert here in without_grad
        assert here in without_grad and not recording()
    assert here not in without_grad and recording()
