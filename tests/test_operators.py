"""Operators and methods of Tensor: each equals the function of the same name, and users' types check."""

import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import fused
from minitrain.errors import UserError
from minitrain.nn import Parameter
from minitrain.operators import Operators
from minitrain.tensor import Tensor

ROOT = Path(__file__).resolve().parents[1]
X = np.array([[0.5, 1.5, 0.75], [2.0, 0.25, 1.0]])
ARRAY: Any = X  # to a type checker, array * tensor is an array
SAME: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sum": (lambda x: x.sum(), F.sum),
    "sum axis": (lambda x: x.sum(0, True), lambda x: F.sum(x, 0, True)),
    "mean": (lambda x: x.mean(axis=-1), lambda x: F.mean(x, -1)),
    "var": (lambda x: x.var(1, correction=0), lambda x: F.var(x, 1, correction=0)),
    "max": (lambda x: x.max(axis=1), lambda x: F.max(x, 1)),
    "min": (lambda x: x.min(keepdims=True), lambda x: F.min(x, keepdims=True)),
    "logsumexp": (lambda x: x.logsumexp(0), lambda x: F.logsumexp(x, 0)),
    "softmax": (lambda x: x.softmax(0), lambda x: F.softmax(x, 0)),
    "log_softmax": (lambda x: x.log_softmax(), F.log_softmax),
    "relu": (lambda x: (x - 1).relu(), lambda x: F.relu(x - 1)),
    "tanh": (lambda x: x.tanh(), F.tanh),
    "sigmoid": (lambda x: x.sigmoid(), F.sigmoid),
    "gelu": (lambda x: x.gelu(), fused.gelu),
    "gelu exact": (lambda x: x.gelu("none"), lambda x: fused.gelu(x, approximate="none")),
    "exp": (lambda x: x.exp(), F.exp),
    "log": (lambda x: x.log(), F.log),
    "sqrt": (lambda x: x.sqrt(), F.sqrt),
    "abs": (lambda x: (x - 1).abs(), lambda x: F.abs(x - 1)),
    "abs()": (lambda x: abs(x - 1), lambda x: F.abs(x - 1)),
    "clip": (lambda x: x.clip(0.6, 1.2), lambda x: F.clip(x, 0.6, 1.2)),
    "maximum": (lambda x: x.maximum(1), lambda x: F.maximum(x, 1)),
    "minimum": (lambda x: x.minimum(x.T.T * 2), lambda x: F.minimum(x, x * 2)),
    "cast": (lambda x: x.cast("float32"), lambda x: F.cast(x, np.float32)),
    "reshape": (lambda x: x.reshape(3, -1), lambda x: F.reshape(x, (3, 2))),
    "reshape of a tuple": (lambda x: x.reshape((6,)), lambda x: F.reshape(x, 6)),
    "reshape of a list": (lambda x: x.reshape([6]), lambda x: F.reshape(x, [6])),
    "reshape to a row": (lambda x: x.reshape(-1), lambda x: F.reshape(x, (6,))),
    "T": (lambda x: x.T, F.transpose),
    "transpose": (lambda x: x.transpose(), F.transpose),
    "transpose axes": (lambda x: x.transpose(-1, 0), lambda x: F.transpose(x, (1, 0))),
    "transpose of a tuple": (lambda x: x.transpose((1, 0)), F.transpose),
    "squeeze": (lambda x: x[:1].squeeze(0), lambda x: x[0]),
    "broadcast_to": (lambda x: x.broadcast_to((2, 2, 3)), lambda x: F.broadcast_to(x, (2, 2, 3))),
    "split": (lambda x: x.split([1, 2], 1)[1], lambda x: x[:, 1:]),
    "power": (lambda x: x**3, lambda x: x * x * x),
    "power reflected": (lambda x: 2**x, lambda x: F.exp(x * math.log(2))),
    "matmul": (lambda x: x.T @ ARRAY, lambda x: F.matmul(F.transpose(x), X)),
    "matmul reflected": (lambda x: ARRAY @ x.T, lambda x: F.matmul(X, F.transpose(x))),
    "arithmetic": (lambda x: 1 - 2 * -x / 3 + 4 / x, lambda x: F.add(F.add(1, F.multiply(x, 2 / 3)), F.divide(4, x))),
}


@pytest.mark.parametrize(("method", "function"), SAME.values(), ids=SAME)
def test_a_method_is_the_function(method: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor]) -> None:
    gradients: list[tuple[np.ndarray, Any]] = []
    for operation in (method, function):
        x = Tensor(X, requires_grad=True)
        y = operation(x)
        y.backward(np.cos(np.arange(y.data.size)).astype(y.dtype).reshape(y.shape))
        gradients.append((y.data, x.grad))
    (y_method, g_method), (y_function, g_function) = gradients
    np.testing.assert_allclose(y_method, y_function, rtol=1e-14)
    np.testing.assert_allclose(g_method, g_function, rtol=1e-13)


def test_every_method_is_attached_and_documented() -> None:
    for name, method in vars(Operators).items():
        if inspect.isfunction(method) or isinstance(method, property):
            assert getattr(Tensor, name) is getattr(Operators, name), name
            assert name.startswith("__") or method.__doc__, name


def test_comparisons_are_arrays() -> None:
    x = Tensor([1.0, 2.0, 3.0])
    for made, expected in (
        (x < 2, [True, False, False]),
        (x <= 2.0, [True, True, False]),
        (x > [2, 2, 2], [False, False, True]),
        (x >= Tensor([3.0, 2.0, 1.0]), [False, True, True]),
        (2 < x, [False, False, True]),
        (np.full(3, 2.0) >= x, [True, True, False]),
    ):
        assert isinstance(made, np.ndarray) and made.dtype == bool and made.tolist() == expected
    assert Tensor(3.0) > 2 and not Tensor(3.0) < 2 and max(Tensor(1.0), Tensor(2.0)).item() == 2
    assert x[x > 1].data.tolist() == [2, 3]
    for other in (None, "2", np.ones(3, np.float32), np.arange(3), 1j):
        with pytest.raises(TypeError, match="operand"):
            x < other  # type: ignore[operator]  # noqa: B015


def test_maximum_shares_the_gradient_among_equals() -> None:
    for operation in (F.maximum, F.minimum):
        a, b = Tensor([1.0, 2.0], requires_grad=True), Tensor(2.0, requires_grad=True)
        operation(a, b).sum().backward()
        assert a.grad is not None and b.grad is not None
        assert a.grad[1] == 0.5 and a.grad.sum() + b.grad == 2


def test_powers_at_the_border() -> None:
    """As in PyTorch, the derivative of x^0 is 0 at 0, and so is that of 0^b."""
    x = Tensor([0.0, 0.0, 2.0], requires_grad=True)
    (x ** Tensor([0.0, 2.0, 0.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 0]
    b = Tensor([1.0, 2.0], requires_grad=True)
    (0.0**b).sum().backward()
    assert b.grad is not None and b.grad.tolist() == [0, 0]


def test_far_values() -> None:
    y = F.sigmoid(Tensor([-800.0, -40, 0, 40, 800])).data
    assert y.tolist() == [0, math.exp(-40) / (1 + math.exp(-40)), 0.5, 1, 1]
    x = Tensor([1000.0, 999.0, -math.inf], requires_grad=True)
    total = F.logsumexp(x)
    total.backward()
    assert abs(total.item() - 1000 - math.log1p(math.exp(-1))) < 1e-12 and x.grad is not None and x.grad[2] == 0
    assert F.logsumexp(Tensor([-math.inf, -math.inf])).item() == -math.inf


def test_a_query_that_sees_nothing_gets_nothing() -> None:
    q = Tensor(np.ones((2, 3)), requires_grad=True)
    y = fused.attention(q, q, q, [[True, False], [False, False]])
    y.sum().backward()
    assert y.data.tolist() == [[1, 1, 1], [0, 0, 0]] and q.grad is not None and np.isfinite(q.grad).all()


def test_a_causal_mask_is_causal_attention() -> None:
    qkv = Tensor(np.random.default_rng(0).standard_normal((2, 5, 3, 2, 4)))
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    y = fused.attention(q, k, v, np.tri(5, dtype=bool)).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    np.testing.assert_allclose(y.data, fused.causal_attention(qkv).data, rtol=1e-13)


def test_refused() -> None:
    a, b = Tensor(np.ones((2, 3, 4))), Tensor(np.ones((5, 4, 6)))
    refusals: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: a @ b, ValueError, r"matmul: the shapes are \(2, 3, 4\) and \(5, 4, 6\); the leading axes do not"),
        (lambda: a @ a, ValueError, r"matmul: the shapes are .* last axis"),
        (lambda: F.clip(a), ValueError, "clip: low and high are None"),
        (lambda: F.clip(a, 2, 1), ValueError, "clip: low is 2, high is 1"),
        (lambda: F.clip(a, "1"), TypeError, "clip: a bound is '1'"),  # type: ignore[arg-type]
        (lambda: F.where([1, 0], a, 1), TypeError, r"where: the condition is \[1, 0\]; give booleans"),
        (lambda: F.where(a, a, 1), TypeError, "where: the condition is a Tensor"),
        (lambda: F.var(Tensor([1.0])), ValueError, "var of one element"),
        (lambda: F.var(a, correction=2), TypeError, "correction is 2"),
        (lambda: F.squeeze(a, 1), ValueError, r"squeeze: the axis is 1; of shape \(2, 3, 4\)"),
        (lambda: a.broadcast_to((3, 4)), ValueError, r"broadcast_to: from shape \(2, 3, 4\) to \(3, 4\)"),
        (lambda: a.split(0), ValueError, r"split: sizes is 0; axis 0 of shape \(2, 3, 4\) has 2"),
        (lambda: a.split([1, 2]), ValueError, "has 2 elements"),
        (lambda: a.split([3, -1]), ValueError, "has 2 elements"),
        (lambda: a.split([]), ValueError, "has 2 elements"),
        (lambda: a.split(1.0), TypeError, "split: sizes is 1.0"),  # type: ignore[arg-type]
        (lambda: F.stack([]), ValueError, "stack needs at least one tensor"),
        (lambda: F.stack([a, b]), ValueError, r"stack: the shapes are \[\(2, 3, 4\), \(5, 4, 6\)\]"),
        (lambda: F.concatenate([a, b]), ValueError, r"concatenate: the shapes are"),
        (lambda: F.stack([a, a.cast("float32")]), TypeError, "dtypes differ"),
        (lambda: F.transpose(a, (0, 1, 1)), ValueError, "only once"),
        (lambda: F.transpose(a, 1), ValueError, "needs all of its axes, or two"),
        (lambda: a.gelu("erf"), UserError, "gelu: approximate is 'erf'; allowed: 'tanh', 'none'"),
        (lambda: fused.attention(a, b, b), ValueError, "attention: q, k, v have shapes"),
        (lambda: fused.attention(a, a, a, np.ones((3, 4), bool)), ValueError, r"the mask \(3, 4\); it must fit \(2, 3"),
        (lambda: fused.attention(a, a, a, np.ones((3, 3))), TypeError, "the mask is an array of float64"),
        (lambda: fused.attention(a, a, a.cast("float32")), TypeError, "float32"),
        (lambda: a ** "2", TypeError, "operand"),
        (lambda: a.max(0, keepdim=True), TypeError, "unexpected keyword argument 'keepdim'"),  # type: ignore[call-arg]
        (lambda: F.where(np.ones((2, 2), bool), a, 1), ValueError, r"the condition \(2, 2\), which do not broadcast"),
    ]
    for call, error, message in refusals:
        with pytest.raises(error, match=message):
            call()


def test_shapes_that_do_not_broadcast() -> None:
    for shapes in (((2, 3), (2, 4)), ((3,), (2,)), ((4, 1, 3), (2, 2, 3)), ((0,), (2,))):
        a, b = (Tensor(np.ones(shape)) for shape in shapes)
        calls = (
            *(F.add, F.subtract, F.multiply, F.divide, F.power, F.maximum, F.minimum),
            *(lambda a, b: F.where(True, a, b), lambda a, b: a < b, lambda a, b: a >= b.data),
        )
        for call in calls:
            said = f"operands have the shapes {shapes[0]} and {shapes[1]}, which do not broadcast: "
            with pytest.raises(ValueError, match=re.escape(said) + ".*equal, or one of them 1"):
                call(a, b)


def test_elements_are_not_assigned() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    for leaf in (x, x * 2, Parameter("p", np.ones(2))):
        with pytest.raises(TypeError, match=r"elements cannot be assigned.*\(2,\).*tensor\.data\[item\] = "):
            leaf[0] = 5.0
    x.data[0] = 5.0
    assert x.data.tolist() == [5.0, 2.0]


TYPED = """
import numpy as np

import minitrain as mt
import minitrain.functional as F

x = mt.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
w: mt.Tensor = x @ x.T + 1 - 2 * x / 3 + x**2 + abs(-x) + np.ones((2, 2)) + [1, 2]
loss: mt.Tensor = (w.relu().exp() + w.sigmoid().log() + w.sqrt() + w.tanh().gelu("none")).mean(axis=0).sum()
loss.backward()
above: np.ndarray = x > 1.5
y: mt.Tensor = F.where(x > 1.5, x, 0.0).reshape(4).reshape(2, 2).transpose(0, 1).max(axis=1, keepdims=True)
pieces: list[mt.Tensor] = x.split(1)
number: float = float(loss) + loss.item() + len(x)
text: str = f"{loss:.3f}"
array: np.ndarray = F.softmax(x).numpy()
x.zero_grad()
model: mt.Model = mt.gpt(mt.GPTConfig(vocabulary=5))
optimizer: type[mt.AdamW] = mt.AdamW
"""
WRONG = """
import minitrain as mt

x = mt.Tensor([1.0])
x.summ()
x + None
x.reshape("2")
mt.Trainr
"""


@pytest.mark.full
def test_types(tmp_path: Path) -> None:
    """Run strict mypy on a user's file, and on one with a mistake in each of its last four lines."""
    for name, text in (("typed.py", TYPED), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--no-incremental"]
    found = subprocess.run(
        [*command, "--config-file", os.devnull, "typed.py", "wrong.py"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    errors = [line.partition(":")[0] for line in found.stdout.splitlines() if ": error:" in line]
    assert errors == ["wrong.py"] * 4, found.stdout + found.stderr
