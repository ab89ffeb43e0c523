"""Every operation of functional.py: gradient, dtype, PyTorch's values, what it keeps and what it refuses."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minitrain import functional as F
from minitrain.tensor import Tensor
from tests.gradcheck import (
    Operation,
    Shape,
    agrees_with_torch,
    as_activations,
    cases,
    close,
    gradcheck,
    names_what_it_keeps,
    pull,
)

ONE = [((5,),), ((3, 1, 7),), ((),), ((0,),), ((2, 0, 3),)]
TWO = [
    ((3,), (3,)),
    ((2, 1, 3), (4, 1)),  # both are broadcast
    ((1, 5), (7, 1)),
    ((), ()),
    ((), (2, 3)),
    ((2, 3), ()),
    ((0, 3), (3,)),
    ((2, 0), (1, 1)),  # the second is broadcast to size 0
    ((1,), (0,)),
]
MATMUL = [
    ((2, 3), (3, 5)),
    ((1, 1), (1, 1)),
    ((4, 2, 3), (4, 3, 5)),
    ((4, 2, 3), (3, 5)),
    ((2, 3), (4, 3, 5)),
    ((4, 1, 2, 3), (1, 7, 3, 5)),
    ((0, 3), (3, 5)),
    ((2, 0), (0, 5)),
    ((0, 2, 3), (3, 5)),
]
ROWS = [((2, 5),), ((3, 1),), ((4, 2, 3),), ((0, 3),), ((2, 0),)]
MASK = np.array([[True, False, True, True], [False] * 4, [False, True, True, False]])
ITEMS = {
    "row": 1,
    "last": -1,
    "NumPy integer": np.int64(2),
    "slice": slice(None, None, 2),
    "nothing": slice(2, 2),
    "column": (slice(None), 2),
    "new axis": (None, ..., 0),
    "repeated": [0, 2, 2, 0, 2],
    "repeated, negative": np.array([[1, -2], [-2, 1]]),
    "repeated pairs": ([0, 1, 1], [2, 3, 3]),
    "repeated columns": (slice(None), [1, 1]),
    "no rows": np.array([], np.int64),
    "mask": MASK,
}
REDUCED = [(None, False), (None, True), (0, False), (-1, True), ((0, 2), False), ((-1, 0), True), ((0, 1, 2), False)]


def indexed(name: str, item: Any) -> Operation:
    return Operation(f"index {name}", lambda x: x[item], lambda t, x: x[item], [((3, 4),)])


def reductions(axis: Any, keep: bool) -> list[Operation]:
    at = f"axis={axis},keepdims={keep}"
    every = () if axis is None else axis  # amax's notation for all axes
    full: list[tuple[Shape, ...]] = [((3, 1, 5),), *([((),)] if axis is None else [])]
    empty: list[tuple[Shape, ...]] = [((0, 3, 2),)] if axis in (None, 0, -1) else []
    return [
        Operation(f"sum {at}", lambda x: F.sum(x, axis, keep), lambda t, x: x.sum(axis, keep), full + empty),
        Operation(f"mean {at}", lambda x: F.mean(x, axis, keep), lambda t, x: x.mean(axis, keep), full),
        Operation(f"max {at}", lambda x: F.max(x, axis, keep), lambda t, x: x.amax(every, keep), full),
        Operation(f"min {at}", lambda x: F.min(x, axis, keep), lambda t, x: x.amin(every, keep), full),
        *(
            Operation(
                f"var {at},correction={c}",
                lambda x, c=c: F.var(x, axis, keep, c),
                lambda t, x, c=c: x.var(axis, correction=c, keepdim=keep),
                [((3, 1, 5),)],
            )
            for c in (0, 1)
        ),
        Operation(
            f"logsumexp {at}",
            lambda x: F.logsumexp(x, axis, keep),
            lambda t, x: t.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keep),
            [((3, 1, 5),)],
        ),
    ]


TABLE = [
    Operation("add", lambda a, b: a + b, lambda t, a, b: a + b, TWO),
    Operation("subtract", lambda a, b: a - b, lambda t, a, b: a - b, TWO),
    Operation("multiply", lambda a, b: a * b, lambda t, a, b: a * b, TWO),
    Operation("divide", lambda a, b: a / b, lambda t, a, b: a / b, TWO, positive=True),
    Operation("negative", lambda x: -x, lambda t, x: -x, ONE),
    Operation("power", lambda a, b: a**b, lambda t, a, b: a**b, TWO, positive=True),
    *(Operation(f"power {n}", lambda x, n=n: x**n, lambda t, x, n=n: x**n, ONE) for n in (0, 1, 2, 3, 4, 5, 2.0)),
    *(Operation(f"power {n}", lambda x, n=n: x**n, lambda t, x, n=n: x**n, ONE, True) for n in (0.5, -2, -1.5)),
    Operation("power of a number", lambda x: 2**x, lambda t, x: 2**x, ONE),
    Operation("maximum", lambda a, b: F.maximum(a, b), lambda t, a, b: t.maximum(a, b), TWO),
    Operation("minimum", lambda a, b: F.minimum(a, b), lambda t, a, b: t.minimum(a, b), TWO),
    Operation(
        "where",
        lambda a, b: F.where([[True], [False]], a, b),
        lambda t, a, b: t.where(t.tensor([[True], [False]]), a, b),
        [((3,), (3,)), ((2, 3), (1, 3)), ((), (2, 1)), ((4, 2, 3), ())],
    ),
    Operation("where one", lambda a, b: F.where(True, a, b), lambda t, a, b: a + 0 * b, [((2, 3), (1, 3))]),
    Operation("matmul", lambda a, b: a @ b, lambda t, a, b: a @ b, MATMUL),
    Operation("relu", F.relu, lambda t, x: t.relu(x), ONE),
    Operation("tanh", F.tanh, lambda t, x: t.tanh(x), ONE),
    Operation("exp", F.exp, lambda t, x: t.exp(x), ONE),
    Operation("log", F.log, lambda t, x: t.log(x), ONE, positive=True),
    Operation("sqrt", F.sqrt, lambda t, x: t.sqrt(x), ONE, positive=True),
    Operation("abs", abs, lambda t, x: t.abs(x), ONE),
    Operation("sigmoid", F.sigmoid, lambda t, x: t.sigmoid(x), ONE),
    Operation("sigmoid of large", lambda x: F.sigmoid(x * 40), lambda t, x: t.sigmoid(x * 40), [((3, 5),)]),
    Operation("clip", lambda x: F.clip(x, -0.5, 1), lambda t, x: t.clip(x, -0.5, 1), ONE),
    Operation("clip from below", lambda x: F.clip(x, 0.1), lambda t, x: t.clip(x, min=0.1), ONE),
    Operation("clip from above", lambda x: F.clip(x, high=0.1), lambda t, x: t.clip(x, max=0.1), ONE),
    Operation(
        "broadcast_to",
        lambda x: F.broadcast_to(x, (4, 2, 3)),
        lambda t, x: x.expand(4, 2, 3),
        [((3,),), ((2, 1),), ((),), ((4, 2, 3),), ((1, 1, 1),)],
    ),
    Operation("squeeze", F.squeeze, lambda t, x: x.squeeze(), [((1, 3, 1),), ((2, 3),), ((),), ((1, 1),), ((0, 1),)]),
    Operation("squeeze last", lambda x: F.squeeze(x, -1), lambda t, x: x.squeeze(-1), [((1, 3, 1),), ((0, 1),)]),
    Operation("reshape", lambda x: F.reshape(x, (3, -1)), lambda t, x: x.reshape(3, -1), [((2, 6),), ((3, 1, 2),)]),
    Operation("reshape to ()", lambda x: F.reshape(x, ()), lambda t, x: x.reshape(()), [((1, 1),), ((),)]),
    Operation("reshape nothing", lambda x: F.reshape(x, (0, 2)), lambda t, x: x.reshape(0, 2), [((5, 0),)]),
    Operation("transpose", F.transpose, lambda t, x: x.permute(tuple(reversed(range(x.ndim)))), [*ONE, ((2, 3),)]),
    Operation(
        "transpose axes",
        lambda x: F.transpose(x, (1, 2, 0)),
        lambda t, x: x.permute(1, 2, 0),
        [((2, 3, 4),), ((0, 1, 2),)],
    ),
    Operation(
        "transpose negative", lambda x: F.transpose(x, (-1, 0, 1)), lambda t, x: x.permute(-1, 0, 1), [((2, 3, 4),)]
    ),
    Operation("transpose two", lambda x: F.transpose(x, (0, -1)), lambda t, x: x.transpose(0, -1), [((2, 3, 4),)]),
    Operation("transpose one", lambda x: F.transpose(x, 0), lambda t, x: x + 0, [((3,),)]),
    *(
        Operation(
            f"split {sizes}, {axis}",
            lambda x, s=sizes, a=axis: F.split(x, s, a)[-1],
            lambda t, x, s=sizes, a=axis: x.split(s, a)[-1],
            [((5, 4),)],
        )
        for sizes, axis in ((2, 0), (9, 0), ([2, 3], 0), ([1, 0, 3], -1), (4, 1))
    ),
    *(
        Operation(
            f"stack {axis}", lambda *xs, a=axis: F.stack(xs, a), lambda t, *xs, a=axis: t.stack(xs, a), [((2, 3),) * 4]
        )
        for axis in (0, 1, -1)
    ),
    Operation("stack one", lambda *xs: F.stack(xs), lambda t, *xs: t.stack(xs), [((),), ((), ()), ((0, 2), (0, 2))]),
    *(indexed(name, item) for name, item in ITEMS.items()),
    Operation("index reversed", lambda x: x[::-1], lambda t, x: x.flip(0), [((3, 2),), ((0,),)]),
    Operation("index scalar", lambda x: x[()], lambda t, x: x[()], [((),)]),
    Operation(
        "concatenate",
        lambda *xs: F.concatenate(xs),
        lambda t, *xs: t.cat(xs),
        [((3,),), ((2, 3), (1, 3)), ((2,), (0,), (3,)), ((0, 2), (0, 2))],
    ),
    Operation(
        "concatenate last", lambda *xs: F.concatenate(xs, -1), lambda t, *xs: t.cat(xs, -1), [((2, 3), (2, 1), (2, 4))]
    ),
    *(row for axis, keep in REDUCED for row in reductions(axis, keep)),
    Operation("max of no rows", lambda x: F.max(x, 1), lambda t, x: x.amax(1), [((0, 3),)]),
    Operation("mean of no rows", lambda x: F.mean(x, 1), lambda t, x: x.mean(1), [((0, 3),)]),
    Operation("softmax", F.softmax, lambda t, x: t.softmax(x, -1), ROWS),
    Operation("softmax first", lambda x: F.softmax(x, 0), lambda t, x: t.softmax(x, 0), [((3, 2),), ((0, 2),)]),
    Operation("log_softmax", F.log_softmax, lambda t, x: t.log_softmax(x, -1), ROWS[:-1]),
    Operation("log_softmax first", lambda x: F.log_softmax(x, 0), lambda t, x: t.log_softmax(x, 0), [((3, 2),)]),
    Operation("softmax of one", F.softmax, lambda t, x: t.softmax(x, 0), [((),)]),
    Operation("log_softmax of one", F.log_softmax, lambda t, x: t.log_softmax(x, 0), [((),)]),
    Operation("cast", lambda x: F.cast(x, x.dtype), lambda t, x: x.clone(), ONE),
]
HALVES = (np.float16, ml_dtypes.bfloat16)
DTYPES = pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])


@cases(TABLE)
def test_gradient(row: Operation, shapes: Any) -> None:
    gradcheck(row.ours, *row.draw(shapes))


@cases(TABLE)
def test_torch(row: Operation, shapes: Any) -> None:
    agrees_with_torch(row, shapes)


@DTYPES
@cases(TABLE)
def test_dtype(row: Operation, shapes: Any, dtype: Any) -> None:
    y, _, _ = pull(row.ours, row.draw(shapes, dtype))  # also checks the gradients
    assert y.dtype == dtype


@cases(TABLE)
def test_saved(row: Operation, shapes: Any) -> None:
    node = as_activations(row.ours, row.draw(shapes)).node
    assert node is not None
    names_what_it_keeps(node, limit=1)


SCALARS = {"int": 3, "float": 0.1, "np.float64": np.float64(0.1), "np.int64": np.int64(3), "0-d": np.array(0.1)}
WITH_A_SCALAR: dict[str, Callable[[Any, Any], Tensor]] = {
    "x + s": lambda x, s: x + s,
    "s + x": lambda x, s: s + x,
    "x - s": lambda x, s: x - s,
    "s - x": lambda x, s: s - x,
    "x * s": lambda x, s: x * s,
    "s * x": lambda x, s: s * x,
    "x / s": lambda x, s: x / s,
    "s / x": lambda x, s: s / x,
}


@DTYPES
@pytest.mark.parametrize("shape", [(2, 3), (), (0,)], ids=str)
@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize("operation", WITH_A_SCALAR.values(), ids=WITH_A_SCALAR)
def test_scalars_take_the_dtype_of_the_tensor(operation: Any, scalar: Any, shape: Any, dtype: Any) -> None:
    x = np.asarray(np.random.default_rng(0).uniform(0.5, 2, shape), dtype)
    y, _, _ = pull(lambda x: operation(x, scalar), [x])
    assert y.dtype == dtype
    expected = operation(x.astype(np.float64), float(scalar))
    assert close(y, expected) <= 8 * float(ml_dtypes.finfo(dtype).eps)


@pytest.mark.parametrize("to", [np.float16, np.float32, np.float64])
@DTYPES
def test_cast(dtype: Any, to: Any) -> None:
    y, c, (gradient,) = pull(lambda x: F.cast(x, to), [np.array([0.5, 1.25, 3.0], dtype)])
    assert y.dtype == to
    np.testing.assert_array_equal(gradient, c.astype(dtype))


@pytest.mark.parametrize("operation", [F.add, F.subtract, F.multiply, F.divide, F.matmul])
def test_two_dtypes_are_refused(operation: Any) -> None:
    a, b = np.ones((2, 2), np.float32), np.ones((2, 2))
    for other in (Tensor(b), b):
        with pytest.raises(TypeError, match=r"float32 and float64.*cast"):
            operation(Tensor(a), other)


def test_refused() -> None:
    with pytest.raises(TypeError, match=r"float32.*float64"):
        F.concatenate([Tensor(np.ones(2, np.float32)), Tensor(np.ones(2))])
    with pytest.raises(ValueError, match="at least one"):
        F.concatenate([])
    for a, b in [((3,), (3, 2)), ((2, 3), (3,)), ((), (1, 1))]:
        with pytest.raises(ValueError, match="two axes"):
            F.matmul(Tensor(np.ones(a)), Tensor(np.ones(b)))
    for shape, axis in [((0,), None), ((2, 0), 1), ((0, 2), 0), ((0, 3, 2), (0, 2))]:
        for reduce in (F.mean, F.max):
            with pytest.raises(ValueError, match="no elements"):
                reduce(Tensor(np.empty(shape)), axis)


@pytest.mark.parametrize(("dtype", "shift"), [(np.float32, 200), (np.float64, 1000)])
def test_softmax_of_rows_far_apart(
    dtype: Any, shift: float, operations: Sequence[Callable[[Tensor], Tensor]] = (F.softmax, F.log_softmax)
) -> None:
    """Subtracting the tensor's maximum instead of the row's would give 0 / 0 in the lower row."""
    near = np.random.default_rng(0).integers(-8, 9, (3, 4)).astype(dtype) / 4  # exact, even after the shift
    far = near + np.array([[shift], [-shift], [0]], dtype)
    for operation in operations:
        y, _, gradients = pull(operation, [far])
        y_near, _, gradients_near = pull(operation, [near])
        np.testing.assert_array_equal(y, y_near)
        np.testing.assert_array_equal(gradients, gradients_near)
        assert np.isfinite(y).all()


def test_max_shares_the_gradient_among_equals() -> None:
    _, c, (gradient,) = pull(lambda x: F.max(x, 1), [np.array([[1.0, 3, 3], [2, 2, 2], [4, 0, 0]])])
    np.testing.assert_array_equal(gradient, c[:, None] * [[0, 1 / 2, 1 / 2], [1 / 3] * 3, [1, 0, 0]])


def test_index_adds_what_was_taken_twice() -> None:
    x = Tensor(np.arange(3.0), requires_grad=True)
    x[[1, 1, 2, 1]].backward(np.array([1.0, 10, 100, 1000]))
    assert x.grad is not None and x.grad.tolist() == [0, 1011, 100]


SUMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], float, float]] = {
    "sum": (F.sum, (4096,), 4096, 1),
    "mean": (F.mean, (2**17,), 1, 2.0**-17),
    "broadcast": (lambda x: x + np.zeros((4096, 1), np.float16), (1,), 1, 4096),
    "index": (lambda x: x[np.zeros(4096, np.int64)], (1,), 1, 4096),
    "matmul": (lambda x: x @ np.ones((4096, 1), np.float16), (1, 4096), 4096, 1),
    "softmax": (lambda x: F.softmax(x) * 4096, (4096,), 1, 0),
}


@pytest.mark.parametrize(("operation", "shape", "value", "slope"), SUMS.values(), ids=SUMS)
def test_half_precision_is_summed_in_float32(operation: Any, shape: Any, value: float, slope: float) -> None:
    """Added one by one in float16, 2048 + 1 is 2048; and 2^17 is infinite."""
    x = Tensor(np.ones(shape, np.float16), requires_grad=True)
    y = operation(x)
    y.backward(np.ones_like(y.data))
    assert x.grad is not None
    assert set(y.data.reshape(-1).tolist()) == {value}
    assert set(x.grad.reshape(-1).tolist()) == {slope}
