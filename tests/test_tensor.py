"""Python's protocols on a Tensor: numbers, rows, equality, copies; and what would silently leave the tape."""

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from minitrain import functional as F
from minitrain.nn import Parameter
from minitrain.tensor import Tensor, operation


def test_values_leave_a_tensor() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert x.numpy() is x.data and (x * x).numpy().tolist() == [1, 4]
    (x * x).sum().backward()
    assert x.grad is not None
    x.zero_grad()
    assert x.grad is None and len(x) == 2 and float(x[1]) == x[1].item() == 2.0 and f"{x[1]:.3f}" == "2.000"
    p = Parameter("p", (2,), dtype="float64")
    p.data = np.array([1.0, 3.0])
    assert p.mean().item() == 2.0 and p.sum().item() == 4.0


def test_truth_and_numbers() -> None:
    assert not Tensor(0.0) and Tensor([2.0]) and not Tensor([[0.0]]) and Tensor(math.nan)
    assert float(Tensor([1.5])) == 1.5 == math.sqrt(Tensor(2.25))
    assert f"{Tensor(1.25):.1f} {Tensor([2.0]):g} {Tensor(1.0)}" == "1.2 2 Tensor(array(1.))"
    for shape in ((2,), (0,), (1, 3)):
        x = Tensor(np.ones(shape))
        for call in (bool, float, lambda x: f"{x:.1f}", Tensor.item):
            with pytest.raises(ValueError, match=r"of shape \(.*tensor\.data"):
                call(x)


def test_rows() -> None:
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    first, second = x
    (F.sum(first) + 2 * F.sum(second)).backward()
    assert len(x) == 2 and x.grad is not None and x.grad.tolist() == [[1, 1, 1], [2, 2, 2]]
    for call in (len, iter, list, sum):
        with pytest.raises(TypeError, match="without axes"):
            call(Tensor(1.0))
    assert len(Tensor(np.ones((0, 2)))) == 0 and list(Tensor([])) == []


def test_equality_is_identity() -> None:
    x, y = Tensor([1.0]), Tensor([1.0])
    assert x == x and x != y and x in [y, x] and x not in [y] and {x: 1, y: 2}[x] == 1
    p, q = Parameter("p", (2,)), Parameter("p", (2,))
    assert p in [q, p] and p not in [q] and p != q and hash(p) != hash(q)
    assert x != None and x != "x"  # noqa: E711
    for other in (1.0, 1, True, np.float32(1), np.ones(1), [1.0], (1.0,), np.bool_(True)):
        for call in (lambda o: x == o, lambda o: x != o, lambda o: o == x, lambda o: o != x):
            with pytest.raises(TypeError, match=r"cannot be compared with .*tensor\.data"):
                call(other)


def test_a_tensor_is_no_array() -> None:
    for x in (Tensor([1.0, 2.0]), Tensor(1.0)):
        for call in (
            np.asarray,
            np.array,
            np.mean,
            np.exp,
            np.sum,
            lambda x: np.stack([x, x]),
            lambda x: np.array([x], np.float64),
        ):
            with pytest.raises(TypeError):
                call(x)
    with pytest.raises(TypeError, match=r"a Tensor of float64, shape \(2,\).*take its array: tensor\.data"):
        np.asarray(Tensor([1.0, 2.0]))


def test_an_operation_checks_its_tensors_alone() -> None:
    """Annotations that are no classes say nothing about tensors: they are not looked at."""

    def rolled(x: Tensor, shape: "tuple[int, ...]", names: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
        return x

    x, checked = Tensor(np.ones(2)), cast(Callable[..., Tensor], operation(rolled))
    assert checked(x, (1,), "a") is checked(x, 3, None, bias=None) is checked(x, None, [x], x) is x
    wrong: list[tuple[Any, ...]] = [(np.ones(2), (1,), []), (x, (1,), [], 3)]
    for arguments in wrong:
        with pytest.raises(TypeError, match=r"^rolled: (x|bias) is .*; give a Tensor$"):
            checked(*arguments)


def test_copies() -> None:
    """Leaves can be copied. A copied node would send its gradient to the original's operands or copy the tape."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    for copied in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert copied is not x and copied.requires_grad and copied.data.tolist() == [1.0, 2.0]
        (copied * copied).backward(np.ones(2))
        assert copied.grad is not None and copied.grad.tolist() == [2.0, 4.0] and x.grad is None
    y = x * x
    for call in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"a Tensor of float64, shape \(2,\) is on the tape.*detach"):
            call(y)
    assert copy.deepcopy(y.detach()).data.tolist() == [1.0, 4.0]
