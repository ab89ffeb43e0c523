"""Numbers of every kind in every place: the right value in the right dtype, or an error that names what was given.

NumPy computes with nearly everything, and often in silence: the mean of integers is cut off, None is NaN, booleans as
ids are a mask, an array of objects adds up whatever is in it. The sweep gives one argument of an operation in a kind
and a form that hypothesis draws, and all others as they should be. A result is compared with float64 arithmetic.
"""

import copy
import inspect
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain import backend, fused
from minitrain import functional as F
from minitrain.autograd import Tensor, backward
from minitrain.backend import FLOATS
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError, shown
from minitrain.nn import Parameter
from minitrain.parallel import collective_ops
from minitrain.parallel.tensor_parallel import own_rows, vocabulary_cross_entropy

REFUSALS = (TypeError, ValueError, IndexError, UserError, RuntimeError)  # the last: a seed of another shape
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WHOLE = [np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4")]
REAL = [np.dtype(bool), *WHOLE, *FLOATS, *map(np.dtype, (">f2", ">f4", ">f8", np.longdouble))]
KINDS = [*REAL, *map(np.dtype, ("complex64", "complex128", object, "U1", "S1", "m8[s]", ml_dtypes.float8_e4m3fn))]
FORMS = ("array", "strided", "read-only", "subclass", "masked", "list", "tuple", "empty", "0-d", "scalar", "None")
PLAIN = ("array", "strided", "read-only")


def given_as(form: str, values: np.ndarray, kind: np.dtype) -> Any:
    """The values in a form that somebody may give them in."""
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
    """As np.matrix, which multiplies in a way of its own."""

    def __mul__(self, other: Any) -> Any:
        return np.full_like(self, 7)

    __rmul__ = __mul__


def refusal(call: Callable[[], Any], *values: Any) -> tuple[Any, str]:
    """(the result, "") or (None, the message), which must name one of the values, its dtype or its shape."""
    try:
        with np.errstate(all="ignore"):
            return call(), ""
    except REFUSALS as error:
        message = str(error)
    assert message and message.count("\n") <= 2, message
    named = [text for value in values for text in (shown(value), *about(value))]
    assert any(text.replace(" ", "") in message.replace(" ", "") for text in named), f"{message!r}: none of {named}"
    return None, message


def about(value: Any) -> list[str]:
    array = value.data if isinstance(value, Tensor) else value
    if hasattr(array, "dtype"):
        return [str(array.dtype), array.dtype.name, str(array.shape)]
    return ["()"] if isinstance(value, Real) else []


def near(y: Any, expected: Any, dtype: Any) -> bool:
    y, expected = np.asarray(y, np.float64), np.asarray(expected, np.float64)
    bound = 8 * float(ml_dtypes.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max(initial=0)))
    return y.shape == expected.shape and bool((np.abs(y - expected) <= bound).all())


# What the operations should say, in float64 ---------------------------------------------------------------------------


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


def attention(qkv: np.ndarray) -> np.ndarray:
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    return attend(q, k, v, qkv.shape[-1] ** -0.5).transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], qkv.shape[3] * qkv.shape[4])


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    scores = scale * q @ k.swapaxes(-1, -2)
    return softmax(np.where(np.tri(q.shape[-2], k.shape[-2], dtype=bool), scores, -np.inf)) @ v


# Every operation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A call, what it should return for arrays of float64, and its arguments: a letter and a shape for each.

    T: a tensor. N: a tensor or None. X: what an index may be. O: an operand, one of which may be a number, a list or an array. A: a plain array of floating point.
    I: ids below 2. M: a mask. Y: a target. G: the seed of backward.
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
    Row("matmul", lambda a, b: a @ b, lambda a, b: a @ b, "OO", (S, (3, 2))),
    Row("matmul", F.matmul, lambda a, b: a @ b, "OO", (S, (3, 2))),
    Row("negative", F.negative, lambda x: -x, "T", (S,)),
    Row("relu", F.relu, lambda x: np.maximum(x, 0), "T", (S,)),
    Row("tanh", F.tanh, np.tanh, "T", (S,)),
    Row("exp", F.exp, np.exp, "T", (S,)),
    Row("log", F.log, np.log, "T", (S,)),
    Row("cast", lambda x: F.cast(x, getattr(x, "dtype", "float32")), lambda x: x, "T", (S,)),
    Row("reshape", lambda x: F.reshape(x, (3, 2)), lambda x: x.reshape(3, 2), "T", (S,)),
    Row("transpose", F.transpose, np.transpose, "T", (S,)),
    Row("transpose", lambda x: F.transpose(x, [1, 0]), np.transpose, "T", (S,)),
    Row("index", F.index, lambda x, i: x[i], "TX", (S, (2,))),
    Row("concatenate", lambda a, b: F.concatenate([a, b]), lambda a, b: np.concatenate([a, b]), "TT", (S, S)),
    Row("sum", F.sum, np.sum, "T", (S,)),
    Row("sum", lambda x: F.sum(x, [0, -1]), lambda x: np.sum(x, (0, -1)), "T", (S,)),
    Row("mean", F.mean, np.mean, "T", (S,)),
    Row("mean", lambda x: F.mean(x, 0), lambda x: np.mean(x, 0), "T", (S,)),
    Row("max", F.max, np.max, "T", (S,)),
    Row("max", lambda x: F.max(x, -1, True), lambda x: np.max(x, -1, keepdims=True), "T", (S,)),
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
    Row("causal_attention", fused.causal_attention, attention, "T", ((1, 2, 3, 2, 3),)),
    Row(
        "attend",
        lambda q, k, v: fused.attend(q, k, v, 0.5, 0, 0)[0],
        lambda q, k, v: attend(q, k, v, 0.5),
        "AAA",
        ((1, 1, 2, 3),) * 3,
    ),
    Row(
        "attend_vjp",
        lambda g, v: fused.attend_vjp(g, v, v, v, np.ones((1, 1, 2, 2), v.dtype), 0.5)[2],
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
        for module in (F, fused)
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - {row.name for row in ROWS} == set(), "add a row to ROWS"


def proper(letter: str, values: np.ndarray, dtype: Any) -> Any:
    """An argument as it should be."""
    kinds = {"I": np.int64, "X": np.int64, "M": bool}
    if letter in kinds:
        return (values % 2).astype(kinds[letter])
    return Tensor(values.astype(dtype)) if letter in "TNO" else values.astype(dtype)


def fits(letter: str, value: Any, dtype: Any) -> bool:
    """Whether the value may stand in such a place; its shape may still be wrong."""
    own = getattr(value, "dtype", None)
    if isinstance(value, np.ma.MaskedArray) or (value is None and letter not in "NX"):
        return False
    if letter == "M":
        return own == bool
    if letter == "I":
        return np.asarray(value).dtype.kind in "iu"
    if letter in "OY":
        bare = np.ndim(value) == 0 or isinstance(value, (list, tuple))
        return np.asarray(value).dtype in REAL if bare else own is not None and own.newbyteorder("=") in FLOATS
    return {"T": False, "N": value is None, "G": own == dtype}.get(letter, True)  # X, A: as NumPy has it


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@pytest.mark.parametrize("row", ROWS, ids=[f"{i} {row.name}" for i, row in enumerate(ROWS)])
@given(data=st.data())
def test_sweep(row: Row, data: st.DataObject) -> None:
    """One argument of a drawn kind and form, as it is; or a tensor made of it, where one is wanted."""
    at = data.draw(st.integers(0, len(row.arguments) - 1), label="argument")
    letter = row.arguments[at]
    forms = PLAIN if letter == "A" else FORMS
    kind, form = data.draw(st.sampled_from(KINDS), label="kind"), data.draw(st.sampled_from(forms), label="form")
    dtype = np.dtype(np.float32) if letter == "G" else data.draw(st.sampled_from(FLOATS), label="dtype of the others")
    numbers = itertools.cycle(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5), label="values"))
    values = [np.array([next(numbers) for _ in range(math.prod(shape))]).reshape(shape) for shape in row.shapes]
    strange = given_as(form, values[at] % 2 if letter in "IXM" else values[at], kind)
    if letter in "TNO" and data.draw(st.booleans(), label="make a tensor of it"):
        to = data.draw(st.sampled_from([None, dtype]), label="with the dtype")
        strange, message = refusal(lambda value=strange: Tensor(value, dtype=to), strange)  # type: ignore[misc]
        if message:
            return
        dtype = strange.dtype
    elif letter == "A" and kind.newbyteorder("=") in FLOATS:
        dtype = kind.newbyteorder("=")
    arguments = [proper(one, x, dtype) for one, x in zip(row.arguments, values, strict=True)]
    arguments[at] = strange
    y, message = refusal(lambda: row.ours(*arguments), strange)
    if not message:
        assert isinstance(strange, Tensor) or fits(letter, strange, dtype), f"{shown(strange)} makes {shown(y)}"
        judge(row, y, arguments, dtype)


def judge(row: Row, y: Any, arguments: list[Any], dtype: np.dtype) -> None:
    """The result in its dtype, near what float64 arithmetic makes."""
    plain = [x.data if isinstance(x, Tensor) else x for x in arguments]
    raw = [one in "IXM" or x is None for one, x in zip(row.arguments, plain, strict=True)]
    wide = [x if as_it_is else np.asarray(x, np.float64) for as_it_is, x in zip(raw, plain, strict=True)]
    array = y.data if isinstance(y, Tensor) else np.asarray(y)
    kept = plain[0].dtype.newbyteorder("=") if row.arguments[0] == "A" else dtype
    expected = backend.wide(dtype) if row.loss else kept
    assert array.dtype == expected, f"{array.dtype} is not {expected}"
    with np.errstate(all="ignore"):
        assert near(array, row.expected(*wide), dtype)
