"""Numbers of every kind in every argument: the right value and dtype, or an error that names what was given.

NumPy computes with nearly anything, often silently: integer means are truncated, None is NaN, boolean ids are a mask,
object arrays add up anything. The sweep passes one argument of an operation in a kind and form drawn by hypothesis, all
others as usual, and compares the result with float64 arithmetic.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from numbers import Real
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain import backend, fused
from minitrain import functional as F
from minitrain.attention import attend as attend_arrays
from minitrain.attention import attend_vjp
from minitrain.autograd import backward
from minitrain.backend import FLOATS
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError, shown
from minitrain.nn import Parameter
from minitrain.parallel import collective_ops
from minitrain.parallel.vocabulary import own_rows, vocabulary_cross_entropy
from minitrain.tensor import Tensor

MODULES = [
    f"minitrain.{name}" for name in ("functional", "shapes", "reductions", "fused", "attention", "gelu", "losses")
]
REFUSALS = (TypeError, ValueError, IndexError, UserError, RuntimeError)  # the last: a seed of another shape
WHOLE = [np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4")]
REAL = [np.dtype(bool), *WHOLE, *FLOATS, *map(np.dtype, (">f2", ">f4", ">f8", "longdouble"))]
KINDS = [*REAL, *map(np.dtype, ("c8", "c16", "O", "U1", "S1", "m8[s]", "float8_e4m3fn"))]
FORMS = ("array", "strided", "read-only", "subclass", "masked", "list", "tuple", "empty", "0-d", "scalar", "None")
PLAIN = ("array", "strided", "read-only")


def given_as(form: str, values: np.ndarray, kind: np.dtype) -> Any:
    """Return the values in a form that a user may pass."""
    x = values.astype(kind)
    if form == "strided":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    if form == "read-only":
        x.flags.writeable = False
    forms: dict[str, Callable[[], Any]] = {
        "subclass": lambda: x.view(Subclass),
        "masked": lambda: np.ma.array(x, mask=values > 1),
        "list": x.tolist,
        "tuple": lambda: tuple(x.tolist()),
        "empty": lambda: x[:0],
        "0-d": lambda: x.reshape(-1)[0].reshape(()) if x.dtype != object else np.array(x.reshape(-1)[0], object),
        "scalar": lambda: x.reshape(-1)[0],
        "None": lambda: None,
    }
    return forms.get(form, lambda: x)()


class Subclass(np.ndarray):
    """Like np.matrix, which redefines multiplication."""

    def __mul__(self, other: Any) -> Any:
        return np.full_like(self, 7)

    __rmul__ = __mul__


def refusal(call: Callable[..., Any], *values: Any, **options: Any) -> tuple[Any, str]:
    """Return (result, "") or (None, message). The message must name one of the values, its dtype or its shape."""
    try:
        with np.errstate(all="ignore"):
            return call(*values, **options), ""
    except REFUSALS as error:
        message = str(error)
    assert message and message.count("\n") <= 2, message
    named = itertools.chain(["reach from", "needs a gradient"], *map(about, values))
    assert any(text.replace(" ", "") in message.replace(" ", "") for text in named), f"{message!r} names no {values}"
    return None, message


def about(value: Any) -> Iterator[str]:
    """Yield the texts that name a value; repr, which takes longest, last."""
    yield shown(value)
    array = value.data if isinstance(value, Tensor) else value
    if hasattr(array, "dtype"):
        yield from (str(array.dtype), repr(array.dtype), array.dtype.name, str(array.shape))
        yield repr(value)
    elif isinstance(value, Real):
        yield "()"


def widened(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def near(y: Any, expected: Any, dtype: Any) -> bool:
    y, expected = widened(y), widened(expected)
    bound = 8 * float(ml_dtypes.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max(initial=0)))
    return y.shape == expected.shape and bool((np.abs(y - expected) <= bound).all())


# Expected results in float64 ------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(x: np.ndarray, labels: Any) -> Any:
    p = softmax(x).reshape(-1, x.shape[-1])
    labels = np.asarray(labels)
    assert labels.shape == x.shape[:-1]
    return -np.log(p[np.arange(labels.size), labels.reshape(-1)]).sum() / 7


def layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.vectorize(math.erf, [float])(x / math.sqrt(2)))


def masked_attention(x: np.ndarray, seen: Any) -> np.ndarray:
    """Each row attends to the positions that it may see; a row that sees none gives 0."""
    seen = np.broadcast_to(True if seen is None else seen, (len(x), len(x)))
    scores = np.where(seen, np.exp(x @ x.T * x.shape[1] ** -0.5), 0)
    return scores / np.maximum(scores.sum(-1, keepdims=True), 1e-300) @ x


def attention(qkv: np.ndarray) -> np.ndarray:
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    return (
        attend(q, k, v, qkv.shape[-1] ** -0.5)
        .transpose(0, 2, 1, 3)
        .reshape(*qkv.shape[:2], qkv.shape[3] * qkv.shape[4])
    )


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    scores = scale * q @ k.swapaxes(-1, -2)
    return softmax(np.where(np.tri(q.shape[-2], k.shape[-2], dtype=bool), scores, -np.inf)) @ v


# Every operation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A call, its expected result for float64 arrays, and its arguments: a letter and a shape each.

    T: a tensor. N: a tensor or None. O: an operand, one of which may be a number, a list or an array. A: a plain
    floating-point array. X: an index. I: ids below 2. M: a mask, an array. L: booleans in any form. Y: a target. G: the
    seed of backward.
    """

    name: str
    ours: Callable[..., Any]
    expected: Callable[..., Any]
    arguments: str
    shapes: tuple[tuple[int, ...], ...]
    loss: bool = False  # float32 for half precision


def rows_of(ids: Any, table: Any) -> Tensor:
    """own_rows, which takes a parameter."""
    if not isinstance(table, Tensor):
        return own_rows(ids, table)
    p = Parameter("p", table.shape)
    p.store_as(table.dtype)
    p.data = table.data
    return own_rows(ids, p)


def seeded(g: Any, dtype: Any = np.float32) -> Any:
    x = Tensor(np.array([[1, 2, 3], [4, 5, 6]], dtype), requires_grad=True)
    (x * x).backward(g)
    return x.grad


S, V = (2, 3), (3,)
ROWS = [
    Row("add", lambda a, b: a + b, lambda a, b: a + b, "OO", (S, V)),
    Row("add", lambda a, b: b + a, lambda a, b: a + b, "OO", (S, S)),
    Row("subtract", lambda a, b: a - b, lambda a, b: a - b, "OO", (S, V)),
    Row("subtract", F.subtract, lambda a, b: a - b, "OO", (V, S)),
    Row("multiply", F.multiply, lambda a, b: a * b, "OO", (S, S)),
    Row("multiply", F.multiply, lambda a, b: a * b, "OO", (V, S)),
    Row("divide", F.divide, lambda a, b: a / b, "OO", (S, V)),
    Row("divide", F.divide, lambda a, b: a / b, "OO", (V, S)),
    Row("operands", lambda a, b: F.operands(a, b)[1], lambda a, b: b, "OO", (S, V)),
    Row("elementwise_operands", lambda a, b: F.elementwise_operands(a, b)[1], lambda a, b: b, "OO", (S, V)),
    Row("matmul", lambda a, b: a @ b, lambda a, b: a @ b, "OO", (S, (3, 2))),
    Row("matmul", F.matmul, lambda a, b: a @ b, "OO", (S, (3, 2))),
    Row("power", lambda a, b: a**b, lambda a, b: a**b, "OO", (S, V)),
    Row("power", F.power, lambda a, b: a**b, "OO", (V, S)),
    Row("power", lambda a: F.power(a, 3), lambda a: a**3, "T", (S,)),
    Row("maximum", F.maximum, np.maximum, "OO", (S, V)),
    Row("minimum", F.minimum, np.minimum, "OO", (V, S)),
    Row("where", F.where, np.where, "LOO", (S, S, V)),
    Row("broadcast_to", lambda x: F.broadcast_to(x, (2, 2, 3)), lambda x: np.broadcast_to(x, (2, 2, 3)), "T", (S,)),
    Row("negative", F.negative, lambda x: -x, "T", (S,)),
    Row("sqrt", F.sqrt, np.sqrt, "T", (S,)),
    Row("abs", F.abs, np.abs, "T", (S,)),
    Row("sigmoid", F.sigmoid, lambda x: 1 / (1 + np.exp(-x)), "T", (S,)),
    Row("clip", lambda x: F.clip(x, 1.5, 2.5), lambda x: np.clip(x, 1.5, 2.5), "T", (S,)),
    Row("relu", F.relu, lambda x: np.maximum(x, 0), "T", (S,)),
    Row("tanh", F.tanh, np.tanh, "T", (S,)),
    Row("exp", F.exp, np.exp, "T", (S,)),
    Row("log", F.log, np.log, "T", (S,)),
    Row("cast", lambda x: F.cast(x, getattr(x, "dtype", "float32")), lambda x: x, "T", (S,)),
    Row("reshape", lambda x: F.reshape(x, (3, 2)), lambda x: x.reshape(3, 2), "T", (S,)),
    Row("transpose", F.transpose, np.transpose, "T", (S,)),
    Row("transpose", lambda x: F.transpose(x, [1, 0]), np.transpose, "T", (S,)),
    Row("squeeze", lambda x: F.squeeze(x, 0), lambda x: x[0], "T", ((1, 3),)),
    Row("split", lambda x: F.split(x, [1, 2], 1)[1], lambda x: x[:, 1:], "T", (S,)),
    Row("stack", lambda a, b: F.stack([a, b]), lambda a, b: np.stack([a, b]), "TT", (S, S)),
    Row("index", F.index, lambda x, i: x[i], "TX", (S, (2,))),
    Row("concatenate", lambda a, b: F.concatenate([a, b]), lambda a, b: np.concatenate([a, b]), "TT", (S, S)),
    Row("sum", F.sum, np.sum, "T", (S,)),
    Row("sum", lambda x: F.sum(x, [0, -1]), lambda x: np.sum(x, (0, -1)), "T", (S,)),
    Row("mean", F.mean, np.mean, "T", (S,)),
    Row("mean", lambda x: F.mean(x, 0), lambda x: np.mean(x, 0), "T", (S,)),
    Row("max", F.max, np.max, "T", (S,)),
    Row("max", lambda x: F.max(x, -1, True), lambda x: np.max(x, -1, keepdims=True), "T", (S,)),
    Row("min", F.min, np.min, "T", (S,)),
    Row("var", lambda x: F.var(x, 0), lambda x: np.var(x, 0, ddof=1), "T", (S,)),
    Row("logsumexp", F.logsumexp, lambda x: np.log(np.exp(x).sum()), "T", (S,)),
    Row("softmax", F.softmax, softmax, "T", (S,)),
    Row("log_softmax", F.log_softmax, lambda x: np.log(softmax(x)), "T", (S,)),
    Row("unbroadcast", lambda g: F.unbroadcast(g, (1, 3)), lambda g: g.sum(0, keepdims=True), "A", (S,)),
    Row("unbroadcast_both", lambda g: F.unbroadcast_both(g, g, (3,), S)[0], lambda g: g.sum(0), "A", (S,)),
    Row("row_max", F.row_max, lambda x: x.max(-1, keepdims=True), "A", (S,)),
    Row("softmax_rows", F.softmax_rows, softmax, "A", (S,)),
    Row("linear", fused.linear, lambda x, w, b: x @ w + (0 if b is None else b), "TTN", (S, (3, 4), (4,))),
    Row("linear", lambda x, w: fused.linear(x, w, gelu=True), lambda x, w: gelu(x @ w), "TT", (S, (3, 4))),
    Row("add_bias", fused.add_bias, lambda x, b: x + b, "TT", (S, V)),
    Row("linear_transposed", fused.linear_transposed, lambda x, w: x @ w.T, "TT", (S, (4, 3))),
    Row("embedding", fused.embedding, lambda i, w: w[np.asarray(i)], "IT", (S, (2, 3))),
    Row("layer_norm", fused.layer_norm, layer_norm, "TTT", (S, V, V)),
    Row("gelu", fused.gelu, gelu, "T", (S,)),
    Row("gelu", lambda x: fused.gelu(x, "none"), exact_gelu, "T", (S,)),
    Row("attention", fused.attention, lambda q, k, v: softmax(q @ k.T * 3**-0.5) @ v, "TTT", (S, S, S)),
    Row("attention", lambda x, m: fused.attention(x, x, x, m), masked_attention, "TL", (S, (2, 2))),
    Row("causal_attention", fused.causal_attention, attention, "T", ((1, 2, 3, 2, 3),)),
    Row(
        "attend",
        lambda q, k, v: attend_arrays(q, k, v, 0.5, 0, 0)[0],
        lambda q, k, v: attend(q, k, v, 0.5),
        "AAA",
        ((1, 1, 2, 3),) * 3,
    ),
    Row(
        "attend_vjp",
        lambda g, v: attend_vjp(g, v, v, v, np.ones((1, 1, 2, 2), v.dtype), 0.5)[2],
        lambda g, v: np.ones((2, 2)) @ g,
        "AA",
        ((1, 1, 2, 3),) * 2,
    ),
    Row("cross_entropy", lambda x, i: fused.cross_entropy(x, i, 7), cross_entropy, "TI", (S, (2,)), loss=True),
    Row(
        "mean_squared_error",
        lambda x, y: fused.mean_squared_error(x, y, 7),
        lambda x, y: ((x - y) ** 2).sum() / 7,
        "TY",
        (S, S),
        loss=True,
    ),
    Row("dropout", lambda x, m: fused.dropout(x, m, 0.5), lambda x, m: 2 * x * m, "TM", (S, S)),
    Row("own_rows", rows_of, lambda i, w: w[np.asarray(i)], "IT", (S, (2, 3))),
    Row(
        "vocabulary_cross_entropy",
        lambda x, i: vocabulary_cross_entropy(x, i, 7, 0, 3, world_of_one()),
        cross_entropy,
        "TI",
        (S, (2,)),
        loss=True,
    ),
    Row("backward", seeded, lambda g: 2 * np.array([[1, 2, 3], [4, 5, 6]]) * g, "G", (S,)),
]


def test_every_function_is_in_the_sweep() -> None:
    public = {
        name
        for module in map(import_module, MODULES)
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
    }
    inside = {
        "targets",
        "gelu_and_slope",
        "axis_of",
        "axes_of",
        "heads_of",
        "scale_of",
    }  # helpers of several operations
    assert public - {row.name for row in ROWS} == inside, "add a row to ROWS"


def proper(letter: str, values: np.ndarray, dtype: Any) -> Any:
    """Return a valid argument."""
    kinds = {"I": np.int64, "X": np.int64, "M": bool, "L": bool}
    if letter in kinds:
        return (values % 2).astype(kinds[letter])
    return Tensor(values.astype(dtype)) if letter in "TNO" else values.astype(dtype)


def fits(letter: str, value: Any, dtype: Any) -> bool:
    """Return whether the value is valid for this letter; its shape may still be wrong."""
    own = getattr(value, "dtype", None)
    if isinstance(value, np.ma.MaskedArray) or (value is None and letter not in "NXL"):
        return False
    if letter == "M":
        return own is not None and own.kind == "b"
    if letter == "L":
        return value is None or np.asarray(value).dtype == bool
    if letter == "I":
        return np.asarray(value).dtype.kind in "iu"
    if letter in "OY":
        bare = np.ndim(value) == 0 or isinstance(value, (list, tuple))
        return np.asarray(value).dtype in REAL if bare else own is not None and own.newbyteorder("=") in FLOATS
    return {"T": False, "N": value is None, "G": own == dtype}.get(letter, True)  # X, A: as NumPy decides


@settings(max_examples=2)
@pytest.mark.parametrize("row", ROWS, ids=[f"{i} {row.name}" for i, row in enumerate(ROWS)])
@given(numbers=st.lists(st.integers(1, 3), min_size=1, max_size=5), dtype=st.sampled_from(FLOATS))
def test_sweep(row: Row, numbers: list[int], dtype: np.dtype) -> None:
    """Pass each argument in each kind and form, both directly and as a tensor where one is expected."""
    endless = itertools.cycle(numbers)
    values = [np.array([next(endless) for _ in range(math.prod(shape))]).reshape(shape) for shape in row.shapes]
    for at, letter in enumerate(row.arguments):
        usual, seen = np.dtype(np.float32) if letter == "G" else dtype, set()
        for kind, form in itertools.product(KINDS, PLAIN if letter == "A" else FORMS):
            strange = given_as(form, values[at] % 2 if letter in "IXML" else values[at], kind)
            own = kind.newbyteorder("=") in FLOATS
            try_it(row, values, at, strange, kind.newbyteorder("=") if letter == "A" and own else usual)
            for to in (None, dtype) if letter in "TNO" else ():
                made, message = refusal(Tensor, strange, dtype=to)
                like = message or (made.dtype, made.shape, made.data.strides)
                if not message and like not in seen:
                    try_it(row, values, at, made, made.dtype)
                seen.add(like)


def try_it(row: Row, values: list[np.ndarray], at: int, strange: Any, dtype: np.dtype) -> None:
    """Run the call with one unusual argument and all others of this dtype."""
    arguments = [proper(letter, x, dtype) for letter, x in zip(row.arguments, values, strict=True)]
    arguments[at] = strange
    y, message = refusal(lambda _: row.ours(*arguments), strange)
    if not message:
        good = isinstance(strange, Tensor) or fits(row.arguments[at], strange, dtype)
        assert good, f"{shown(strange)} makes {shown(y)}"
        judge(row, y, arguments, dtype)


def judge(row: Row, y: Any, arguments: list[Any], dtype: np.dtype) -> None:
    """Check that the result has its dtype and is close to float64 arithmetic."""
    plain = [x.data if isinstance(x, Tensor) else x for x in arguments]
    raw = [one in "IXML" or x is None for one, x in zip(row.arguments, plain, strict=True)]
    wide = [x if as_it_is else widened(x) for as_it_is, x in zip(raw, plain, strict=True)]
    array = y.data if isinstance(y, Tensor) else np.asarray(y)
    kept = plain[0].dtype.newbyteorder("=") if row.arguments[0] == "A" else dtype
    expected = backend.accumulation_dtype(dtype) if row.loss else kept
    assert array.dtype == expected, f"{array.dtype} is not {expected}"
    with np.errstate(all="ignore"):
        assert near(array, row.expected(*wide), dtype)


# Tensors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_tensor(kind: np.dtype) -> None:
    """Floating point is taken as it is, other real numbers only with a dtype; anything else is refused."""
    values = np.array([[1, 2, 3], [4, 5, 6]])
    for form, to in itertools.product(FORMS, (None, *FLOATS)):
        data = given_as(form, values, kind)
        y, message = refusal(Tensor, data, dtype=to)
        read = np.asarray(data)
        native = read.dtype.newbyteorder("=")
        real = form not in ("None", "masked") and read.dtype in REAL
        assert (not message) == (real and (to is not None or native in FLOATS)), f"{form} with {to}: {message}"
        if not message:
            assert type(y.data) is np.ndarray and y.dtype == (native if to is None else to)
            np.testing.assert_array_equal(y.data.astype(np.float64), read.astype(np.float64))


def test_tensor_of_what_is_no_array() -> None:
    x = Tensor([1.0, 2.0])
    masked = np.ma.array([1.0, 2.0], mask=[True, False])
    for value in (
        x,
        [x, x],
        [1.0, None],
        [masked, masked],
        [[1.0], [1.0, 2.0]],
        "1.0",
        ["1"],
        {1.0},
        10**400,
        object(),
    ):
        for dtype in (None, "float32"):
            y, message = refusal(Tensor, value, dtype=dtype)
            assert y is None and message.startswith("Tensor: ")
    dtypes: list[Any] = ["int32", int, "x", np.complex64, np.longdouble, ">f4", object, [1], {}]
    for wrong in dtypes:
        with pytest.raises(TypeError, match=r"Tensor: dtype is .*float16, bfloat16, float32 or float64"):
            Tensor([1.0], dtype=wrong)
    with pytest.raises(TypeError, match=r"requires_grad is .*float32"):
        Tensor([1.0], np.float32)  # type: ignore[arg-type]
    assert Tensor([]).shape == (0,) and Tensor(2.5).item() == 2.5 and Tensor([1, 2.5]).data.tolist() == [1.0, 2.5]


def test_what_was_wrong_in_silence() -> None:
    with pytest.raises(TypeError, match=r"int64.*\nGive dtype='float32', or write 1\.0 for 1"):
        Tensor([1, 2], requires_grad=True)
    x = Tensor([1, 2], requires_grad=True, dtype="float32")
    y = F.mean(x * x)
    y.backward()
    assert y.item() == 2.5 and x.grad is not None and x.grad.tolist() == [1, 2]
    assert (Tensor([1, 2, 3], dtype="float64") * 0.5).data.tolist() == [0.5, 1.0, 1.5]
    assert (Tensor([True], dtype="float64") + 2).data.tolist() == [3.0]
    assert F.exp(Tensor([0, 0], dtype="float32")).dtype == np.float32
    w = np.array([[0.5, -1.7], [0.9, 2.6]], np.float32)
    for whole in ([[1, 2]], np.array([[1, 2]], np.uint8)):
        product = fused.linear(Tensor(whole, dtype="float32"), Tensor(w)).data
        np.testing.assert_allclose(product, [[2.3, 3.5]], rtol=1e-6)
    with pytest.raises(TypeError, match="uint8"):
        fused.linear(np.array([[1, 2]], np.uint8), Tensor(w))  # type: ignore[arg-type]


MASKED = np.ma.array([1.0, 2.0], mask=[True, False])
HALF: list[Any] = [
    *(0.5, np.float64(0.5), np.float16(0.5), np.longdouble(0.5), np.array(0.5), np.array(0.5, ">f8"), Fraction(1, 2))
]
FACTORS: list[Any] = [2, True, np.int8(2), np.bool_(True), [2, 3], (2.0, 3), [True, False]]
NO_OPERANDS: list[Any] = [
    *(None, "2", b"2", 1j, np.complex64(1), [None, 1.0], np.array(None), [[1.0], [1.0, 2.0]], 10**400, {}, Decimal(2)),
    *(np.array([1, 2]), np.array([1, 2], np.longdouble), MASKED, [MASKED, MASKED], np.ma.masked),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_operands(dtype: np.dtype) -> None:
    """Real numbers and lists take the tensor's dtype; arrays must already have it."""
    x = Tensor([1.0, 2.0], dtype=dtype)
    for half in HALF:
        assert (x * half).dtype == dtype and float((x * half)[1]) == 1.0 == float((half / x)[0]) * 2
    for other in (*FACTORS, np.array([2, 3], dtype)):
        for y in (x * other, other * x):
            assert y.dtype == dtype
            np.testing.assert_array_equal(widened(y.data), np.array([1.0, 2.0]) * np.array(other, np.float64))
    for other in NO_OPERANDS:
        for operation in (F.add, F.subtract, F.multiply, F.divide, F.matmul):
            assert refusal(operation, x, other)[1] and refusal(operation, other, x)[1]
    with pytest.raises(TypeError, match="one of them must be a Tensor"):
        F.add(np.ones(2), 1.0)
    np.testing.assert_array_equal((np.ones((1, 2), dtype) @ F.reshape(x, (2, 1))).data, np.array([[3.0]]))


def test_cast_and_parameters() -> None:
    """The same rule refuses everything but floating point."""
    p = Parameter("p", (2,))
    wrong: list[Any] = ["int32", bool, np.complex64, np.longdouble, ">f4", None, "x", object, 3, {}, np.int64]
    for dtype in wrong:
        with pytest.raises(TypeError, match="cast: dtype is"):
            F.cast(Tensor([1.5]), dtype)
        for call in (lambda dtype=dtype: Parameter("p", (2,), dtype=dtype), lambda dtype=dtype: p.store_as(dtype)):
            with pytest.raises(UserError, match=r"p: dtype is .*floating-point"):
                call()
    for dtype in FLOATS:
        assert Parameter("p", (2,), dtype=dtype).dtype == dtype == F.cast(Tensor([1.5]), dtype).dtype
        p.store_as(str(dtype))
        assert p.dtype == dtype and p.initial_values(1).dtype == dtype


# Numeric arguments: right, or refused ---------------------------------------------------------------------------------

X = Tensor(np.arange(1.0, 7).reshape(2, 3))
QKV = Tensor(np.arange(1.0, 13).reshape(1, 2, 3, 1, 2))
ONE = Tensor(np.ones(3))
NUMBERS: dict[str, tuple[Callable[[Any], Tensor], type]] = {
    "epsilon": (lambda n: fused.layer_norm(X, ONE, ONE, n), float),
    "start": (lambda n: fused.causal_attention(QKV, n), int),
    "scale": (lambda n: fused.causal_attention(QKV, scale=n), float),
    "scale of attention": (lambda n: fused.attention(X, X, X, scale=n), float),
    "cross_entropy": (lambda n: fused.cross_entropy(X, [0, 1], n), float),
    "mean_squared_error": (lambda n: fused.mean_squared_error(X, X.data + 1, n), float),
    "dropout": (lambda n: fused.dropout(X, np.ones((2, 3), bool), n), float),
    "sum": (lambda n: F.sum(X, n), int),
    "mean": (lambda n: F.mean(X, n), int),
    "max": (lambda n: F.max(X, n), int),
    "min": (lambda n: F.min(X, n), int),
    "var": (lambda n: F.var(X, n), int),
    "correction": (lambda n: F.var(X, correction=n), int),
    "logsumexp": (lambda n: F.logsumexp(X, n), int),
    "squeeze": (lambda n: F.squeeze(Tensor(np.ones((1, 3, 1))), n), int),
    "stack": (lambda n: F.stack([X, X], n), int),
    "split": (lambda n: F.split(X, n)[0], int),
    "broadcast_to": (lambda n: F.broadcast_to(X, (n, 2, 3)), int),
    "clip": (lambda n: F.clip(X, n), float),
    "softmax": (lambda n: F.softmax(X, n), int),
    "log_softmax": (lambda n: F.log_softmax(X, n), int),
    "concatenate": (lambda n: F.concatenate([X, X], n), int),
    "transpose": (lambda n: F.transpose(X, (n, 0)), int),
    "reshape": (lambda n: F.reshape(X, (n, 6)), int),
}
UNSAID = ("scale", "scale of attention", "cross_entropy", "mean_squared_error")  # None is the default
SEVERAL = ("sum", "mean", "max", "min", "var", "logsumexp", "squeeze")  # axes, or none
ODD: list[Any] = [
    *(0, 1, -1, 2, 0.5, 1.5, -0.5, 1e-3, math.nan, math.inf, 10**400, True, False, None, "1", b"1", 1j, [1], (), {}),
    *(np.float32(0.5), np.float64(0.25), np.int64(1), np.int8(1), np.array(0.5), np.array([1]), np.bool_(True)),
    *(Tensor(1.0), np.ma.masked, Fraction(1, 2), object()),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    call, like = NUMBERS[name]
    for value in ODD:
        y, message = refusal(call, value)
        default = value is None and name in (*UNSAID, *SEVERAL)
        listed = isinstance(value, (list, tuple)) and name in (*SEVERAL, "split")
        if message or default or listed:
            continue
        assert like(value) == value and not isinstance(value, (Tensor, np.ndarray, str)), f"{value!r} was taken"
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y.data, call(like(value)).data)


def test_axes() -> None:
    for operation in (F.sum, F.mean, F.max, F.min, F.var, F.logsumexp):
        assert operation(X, [0, -1]).data == operation(X, (0, 1)).data == operation(X).data
        for axes in ((0, 0), (0, -2), 2, (-3,), [5]):
            with pytest.raises(ValueError, match=operation.__name__):
                operation(X, axes)
    for rows, alone in ((F.softmax, 1.0), (F.log_softmax, 0.0)):
        assert [rows(Tensor(3.0), axis).data for axis in (-1, 0)] == [alone, alone]  # a row of one element
        with pytest.raises(ValueError, match=r"softmax: the axis is 1, .*allowed are -1 to 0"):
            rows(Tensor(3.0), 1)
    for shape, axes in (((), (0,)), ((2, 3), (0,)), ((2, 3), (0, 0)), ((2, 3), (0, 2)), ((2, 3), 1)):
        with pytest.raises(ValueError, match="transpose"):
            F.transpose(Tensor(np.ones(shape)), axes)
    assert F.transpose(Tensor(1.0), ()).shape == ()
    with pytest.raises(ValueError, match=r"concatenate.*no axes"):
        F.concatenate([Tensor(1.0), Tensor(2.0)])


# Ids, masks, targets --------------------------------------------------------------------------------------------------


def test_ids_are_lists_and_arrays_alike() -> None:
    """Boolean ids would act as a mask and give two rows instead of three."""
    table, logits = Tensor(np.arange(6.0).reshape(3, 2)), Tensor(np.arange(9.0).reshape(3, 3))
    p = Parameter("p", (3, 2), dtype="float64")
    p.data = table.data
    calls: list[Callable[[Any], Tensor]] = [
        lambda ids: fused.embedding(ids, table),
        lambda ids: own_rows(ids, p),
        lambda ids: fused.cross_entropy(logits, ids, 3),
        lambda ids: vocabulary_cross_entropy(logits, ids, 3, 0, 3, world_of_one()),
    ]
    expected = [[[0, 1], [4, 5], [2, 3]]] * 2 + [-np.log(softmax(logits.data))[range(3), [0, 2, 1]].mean()] * 2
    for call, right in zip(calls, expected, strict=True):
        for ids in ([0, 2, 1], (0, 2, 1), np.array([0, 2, 1], np.uint8), np.array([0, 2, 1], ">i2")):
            np.testing.assert_allclose(call(ids).data, right, rtol=1e-14)
        for wrong in ([True, False, True], np.ones(3, bool), [0.0, 1.0, 2.0], Tensor([0.0, 1.0, 2.0]), None, "012"):
            _, message = refusal(call, wrong)
            assert "whole numbers" in message


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "uint64"])
def test_ids_of_few_bytes_in_a_late_slice(kind: str) -> None:
    """The index of the slice's first row does not fit into an int8."""
    p = Parameter("p", (400, 2), dtype="float64")
    p.placement = p.placement.split(0, 300, 400)
    p.data = np.ones((100, 2))
    ids = np.array([1, 100], kind)
    assert own_rows(ids, p).data.tolist() == [[0, 0], [0, 0]]
    logits = Tensor(np.zeros((2, 100)))
    loss = vocabulary_cross_entropy(logits, ids, 2, 300, 400, world_of_one())
    assert abs(loss.item() - math.log(100)) < 1e-14  # the labels' logits are on another rank


def test_masks_and_targets() -> None:
    for keep in (0.5, [[True] * 3] * 2, np.ones((2, 3), int), np.ones((2, 3)), Tensor(np.ones((2, 3))), None, True):
        with pytest.raises(TypeError, match=r"dropout: keep is .*booleans"):
            fused.dropout(X, keep, 0.5)  # type: ignore[arg-type]
    for shape in ((3,), (1, 3), (), (2, 1)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
            fused.dropout(X, np.ones(shape, bool), 0.5)
    assert fused.mean_squared_error(X, (X.data + 1).tolist(), 6).item() == 1.0
    assert fused.mean_squared_error(Tensor([1.5], dtype="float16"), [1], 1).item() == 0.25
    with pytest.raises(TypeError, match=r"target is a Tensor.*give its array"):
        fused.mean_squared_error(X, X, 6)
    with pytest.raises(TypeError, match="int64"):
        fused.mean_squared_error(X, np.ones((2, 3), int), 6)


def test_the_shape_of_a_bias() -> None:
    """A bias of another shape would be broadcast and get a gradient of the wrong shape."""
    for b in (np.ones(1), np.ones((1, 3)), np.ones(())):
        for call in (
            lambda b: fused.linear(X, Tensor(np.ones((3, 3))), Tensor(b)),
            lambda b: fused.add_bias(X, Tensor(b)),
            lambda b: fused.layer_norm(X, ONE, Tensor(b)),
        ):
            with pytest.raises(ValueError, match=r"b must have shape \(3,\)"):
                call(b)


def test_an_index_is_no_tensor() -> None:
    for item in (
        Tensor([0.0, 1.0]),
        (slice(None), Tensor(1.0)),
        [Tensor(1.0)],
        np.ma.array([0, 1], mask=[True, False]),
    ):
        with pytest.raises(TypeError, match=r"whole numbers|tensor\.data"):
            X[item]
    with pytest.raises(IndexError, match=r"item is 2, the tensor has shape \(2, 3\)"):
        X[2]


def test_collective_operations_take_tensors() -> None:
    world, tag = world_of_one(), ("tp", "test")
    for operation in (collective_ops.copy_to, collective_ops.reduce_from):
        with pytest.raises(TypeError, match=f"{operation.__name__}: x is an array of float64"):
            operation(np.ones(2), world, tag)  # type: ignore[arg-type]
    for kind in ("int32", "int64"):
        x = np.array([100, 100], kind)
        world.all_reduce(x, tag)
        assert x.tolist() == [100, 100]


# Backward and sums ----------------------------------------------------------------------------------------------------


def test_the_seed_of_backward() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    ones = np.ones(2)
    for g in (Tensor(ones), [1.0, 1.0], (1.0, 1.0), 1.0, np.ma.array(ones), np.ones(2, int), np.ones(2, ">f8"), "g"):
        _, message = refusal((x * x).backward, g)
        assert message.startswith("backward: ") and x.grad is None
    for roots in (x * x, [ones], ones, None, [None]):
        with pytest.raises(TypeError, match=r"backward: .* give a list of tensors"):
            backward(roots, [ones])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"gradients is an array.* give a list"):
        backward([x * x], ones)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 roots and 2 gradients"):
        backward([x * x], [ones, ones])
    matrix = Tensor(np.ones((2, 2)), requires_grad=True)
    (matrix * 3.0).backward(np.full((2, 2), 2.0).view(Subclass))
    assert type(matrix.grad) is np.ndarray and matrix.grad.tolist() == [[6.0, 6.0], [6.0, 6.0]]
    with pytest.raises(TypeError, match=r"concatenate: .* give a list of tensors"):
        F.concatenate(Tensor(np.ones((2, 2))))  # type: ignore[arg-type]


def test_sums_are_of_floating_point() -> None:
    for call in (backend.total, backend.mean, backend.column_sums, lambda x: backend.square(x[0])):
        with pytest.raises(TypeError, match="int8"):
            call(np.full((2, 100), 100, np.int8))
    assert shown(np.int64) == "<class 'numpy.int64'>"
