"""Derivative helpers: central differences, a measure of difference, operation tables, what a node keeps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from minitrain.autograd import Node
from minitrain.nn import Parameter
from minitrain.tensor import Tensor

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = np.ndarray
STEP = 1e-5  # of the differences: truncation error about STEP^2, rounding error about 1e-16 / STEP
BOUND = 1e-7


def close(a: Any, b: Any, floor: float = 0.0) -> float:
    """Return the distance of a from its reference b: max|a - b| / max(max|b|, floor), or NaN if either is NaN.

    floor: 1e-3 of the largest |b| of all tensors of the same kind. Some true gradients are zero, and a ratio of
    rounding errors is meaningless.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"shape {a.shape}, but the reference has {b.shape}"
    difference = float(np.abs(a - b).max(initial=0.0))
    return difference and difference / max(float(np.abs(b).max(initial=0.0)), floor, 1e-300)


def pull(operation: Callable[..., Tensor], arrays: Sequence[Array], seed: int = 0) -> tuple[Array, Array, list[Array]]:
    """Return y, a random c, and the gradients of sum(c y); check shapes and dtypes, and that nothing is overwritten."""
    leaves = [Tensor(x, requires_grad=True) for x in arrays]
    before = [x.copy() for x in arrays]
    y = operation(*leaves)
    c = np.asarray(np.random.default_rng(seed).standard_normal(y.shape), y.dtype)
    c_before = c.copy()
    result = y.data.copy()
    y.backward(c)
    np.testing.assert_array_equal(c, c_before, "backward wrote into the gradient that it was given")
    gradients = []
    for leaf, x in zip(leaves, before, strict=True):
        np.testing.assert_array_equal(leaf.data, x, "an operand was overwritten")
        assert isinstance(leaf.grad, np.ndarray)
        assert (leaf.grad.shape, leaf.grad.dtype) == (x.shape, x.dtype), "a gradient is not like its operand"
        gradients.append(leaf.grad)
    return result, c, gradients


def gradcheck(operation: Callable[..., Tensor], *arrays: Any, seed: int = 0) -> float:
    """Assert that backward agrees with central differences in float64. Return the worst difference.

    For L = sum(c y) with random c: dL/dx_i = sum(c (y(x + h e_i) - y(x - h e_i))) / 2h + O(h^2).
    """
    points = [np.array(x, np.float64, order="C") for x in arrays]
    _, c, gradients = pull(operation, points, seed)

    def value() -> Array:
        return operation(*(Tensor(x) for x in points)).data.copy()  # y may be a view of x

    references = []
    for x in points:
        reference = np.empty_like(x)
        flat, slots = x.reshape(-1), reference.reshape(-1)
        for i, here in enumerate(flat.tolist()):
            flat[i] = here + STEP
            above = value()
            flat[i] = here - STEP
            slots[i] = (c * (above - value())).sum() / (2 * STEP)
            flat[i] = here
        references.append(reference)
    floor = max([1e-2, *(1e-3 * np.abs(b).max(initial=0.0) for b in references)])
    worst = [close(a, b, floor) for a, b in zip(gradients, references, strict=True)]
    assert all(measure <= BOUND for measure in worst), f"backward differs from differences, by operand: {worst}"
    return max(worst, default=0.0)


class Operation(NamedTuple):
    """Row of a table: our function, PyTorch's (first argument: the torch module), and the operands' shapes."""

    name: str
    ours: Callable[..., Tensor]
    theirs: Callable[..., Any]
    shapes: Sequence[tuple[Shape, ...]]
    positive: bool = False  # operands in 0.5..2 instead of normally distributed

    def draw(self, shapes: tuple[Shape, ...], dtype: Any = np.float64, seed: int = 1) -> list[Array]:
        """Return an operand of order 1 for each shape."""
        rng = np.random.default_rng(seed)
        draw = (lambda shape: rng.uniform(0.5, 2, shape)) if self.positive else rng.standard_normal
        return [np.asarray(draw(shape), dtype) for shape in shapes]


def cases(table: Sequence[Operation]) -> Any:
    """Parametrize a test over operations and their shapes."""
    rows = [
        pytest.param(row, shapes, id=f"{row.name}-{'-'.join(map(str, shapes))}".replace(" ", ""))
        for row in table
        for shapes in row.shapes
    ]
    return pytest.mark.parametrize(("row", "shapes"), rows)


def agrees_with_torch(row: Operation, shapes: tuple[Shape, ...], bound: float = 1e-12) -> None:
    """Assert that forward and backward agree in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    arrays = row.draw(shapes)
    y, c, gradients = pull(row.ours, arrays)
    twins = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = row.theirs(torch, *twins)
    assert close(y, expected.detach().numpy()) <= bound
    references = [g.numpy() for g in torch.autograd.grad(expected, twins, torch.tensor(c))]
    floor = 1e-3 * max(np.abs(b).max(initial=0.0) for b in references)
    for a, b in zip(gradients, references, strict=True):
        assert close(a, b, floor) <= bound


def owner(x: Array) -> Array:
    """Return the array that owns x's memory."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def kept(thing: Any, seen: dict[int, Any] | None = None) -> Iterator[Array]:
    """Yield the owning arrays that a function keeps alive: in its closure and defaults, through containers and tensors.

    Skip parameters and other leaves: they are read through their Tensor, which does not keep an array alive.
    """
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return
    seen[id(thing)] = thing  # kept alive, so that its id is not reused
    parts: list[Any] = []
    if isinstance(thing, np.ndarray):
        yield owner(thing)
    elif isinstance(thing, Tensor):
        if not isinstance(thing, Parameter) and not (thing.node is None and thing.requires_grad):
            yield owner(thing.data)
    elif isinstance(thing, tuple | list | set):
        parts = [*thing]
    elif isinstance(thing, dict):
        parts = [*thing.values()]
    elif callable(thing):
        parts = [*(getattr(thing, "__defaults__", None) or ())]
        parts += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    for part in parts:
        yield from kept(part, seen)


def names_what_it_keeps(node: Node, limit: int) -> None:
    """Assert that a node's vjps keep exactly the arrays listed in `saved`, among those of at least `limit` bytes."""
    functions = [node.vjp, *(vjp for _, vjp in node.weights)]
    really = {id(x): x for x in kept(functions) if x.nbytes >= limit}
    said = {id(x): x for x in kept(node.saved) if x.nbytes >= limit}
    secret = [(x.shape, x.dtype.name) for i, x in really.items() if i not in said]
    needless = [(x.shape, x.dtype.name) for i, x in said.items() if i not in really]
    assert not secret, f"kept for backward, but not in `saved`: {secret}"
    assert not needless, f"in `saved`, but no vjp needs it: {needless}"


def as_activations(operation: Callable[..., Tensor], arrays: Sequence[Array]) -> Tensor:
    """Apply the operation with parameters as leaves and all other operands as intermediate results."""
    leaves = [Tensor(x, requires_grad=True) for x in arrays]
    y = operation(*leaves)
    assert y.node is not None
    parameters = {id(leaf) for leaf, _ in y.node.weights}
    return operation(*(x if id(x) in parameters else x + 0.0 for x in leaves))
