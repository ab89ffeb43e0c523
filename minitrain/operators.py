"""The operators and methods of Tensor: `x + y`, `x @ w`, `x > 0`, `x.sum(axis=0)`, `x.relu()`.

Each calls the function of the same name in functional.py (gelu: in fused.py; backward: in autograd.py), which defines
its derivative. Those functions need Tensor, so importing the package attaches the methods to it here. Type checkers
see Operators as a base class of Tensor.
"""

from collections.abc import Sequence
from typing import Any

from . import autograd, fused
from . import functional as F
from .backend import Array
from .functional import Operand
from .shapes import Axis
from .tensor import Tensor


class Operators:
    """The operators and methods of a Tensor. `self` is a Tensor, which a base class cannot declare."""

    def backward(self: Any, gradient: Array | None = None) -> None:
        """Add d(self)/d(leaf), weighted by `gradient`, to the `grad` of every leaf. See autograd.backward."""
        autograd.backward([self], [gradient])

    def __add__(self: Any, other: Operand) -> Tensor:
        return F.add(self, other)

    def __radd__(self: Any, other: Operand) -> Tensor:
        return F.add(other, self)

    def __sub__(self: Any, other: Operand) -> Tensor:
        return F.subtract(self, other)

    def __rsub__(self: Any, other: Operand) -> Tensor:
        return F.subtract(other, self)

    def __mul__(self: Any, other: Operand) -> Tensor:
        return F.multiply(self, other)

    def __rmul__(self: Any, other: Operand) -> Tensor:
        return F.multiply(other, self)

    def __truediv__(self: Any, other: Operand) -> Tensor:
        return F.divide(self, other)

    def __rtruediv__(self: Any, other: Operand) -> Tensor:
        return F.divide(other, self)

    def __matmul__(self: Any, other: Operand) -> Tensor:
        return F.matmul(self, other)

    def __rmatmul__(self: Any, other: Operand) -> Tensor:
        return F.matmul(other, self)

    def __pow__(self: Any, other: Operand) -> Tensor:
        return F.power(self, other)

    def __rpow__(self: Any, other: Operand) -> Tensor:
        return F.power(other, self)

    def __neg__(self: Any) -> Tensor:
        return F.negative(self)

    def __abs__(self: Any) -> Tensor:
        return F.abs(self)

    def __getitem__(self: Any, item: Any) -> Tensor:
        return F.index(self, item)

    # Comparisons return an array of booleans. == tests identity (tensor.py).

    def __lt__(self: Any, other: Operand) -> Array:
        a, b = F.elementwise_operands(self, other)
        return a.data < b.data

    def __le__(self: Any, other: Operand) -> Array:
        a, b = F.elementwise_operands(self, other)
        return a.data <= b.data

    def __gt__(self: Any, other: Operand) -> Array:
        a, b = F.elementwise_operands(self, other)
        return a.data > b.data

    def __ge__(self: Any, other: Operand) -> Array:
        a, b = F.elementwise_operands(self, other)
        return a.data >= b.data

    @property
    def T(self: Any) -> Tensor:
        """Reverse the order of the axes: for a matrix, its transpose."""
        return F.transpose(self)

    def reshape(self: Any, *shape: int | Sequence[int]) -> Tensor:
        """Return the same elements in another shape: x.reshape(2, 3) or x.reshape((2, 3))."""
        return F.reshape(self, shape[0] if len(shape) == 1 else shape)  # type: ignore[arg-type]

    def transpose(self: Any, *axes: int | Sequence[int]) -> Tensor:
        """Permute the axes: x.transpose(1, 0, 2) or x.transpose((1, 0, 2)); by default reverse them.

        If x has more axes than the two given, these are swapped: x.transpose(-2, -1).
        """
        return F.transpose(self, (axes[0] if len(axes) == 1 else axes) if axes else None)  # type: ignore[arg-type]

    def squeeze(self: Any, axis: Axis = None) -> Tensor:
        return F.squeeze(self, axis)

    def broadcast_to(self: Any, shape: Sequence[int]) -> Tensor:
        return F.broadcast_to(self, shape)

    def split(self: Any, sizes: int | Sequence[int], axis: int = 0) -> list[Tensor]:
        return F.split(self, sizes, axis)

    def sum(self: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return F.sum(self, axis, keepdims)

    def mean(self: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return F.mean(self, axis, keepdims)

    def var(self: Any, axis: Axis = None, keepdims: bool = False, correction: int = 1) -> Tensor:
        return F.var(self, axis, keepdims, correction)

    def max(self: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return F.max(self, axis, keepdims)

    def min(self: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return F.min(self, axis, keepdims)

    def logsumexp(self: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return F.logsumexp(self, axis, keepdims)

    def softmax(self: Any, axis: int = -1) -> Tensor:
        return F.softmax(self, axis)

    def log_softmax(self: Any, axis: int = -1) -> Tensor:
        return F.log_softmax(self, axis)

    def relu(self: Any) -> Tensor:
        return F.relu(self)

    def tanh(self: Any) -> Tensor:
        return F.tanh(self)

    def sigmoid(self: Any) -> Tensor:
        return F.sigmoid(self)

    def gelu(self: Any, approximate: str = "tanh") -> Tensor:
        return fused.gelu(self, approximate)

    def exp(self: Any) -> Tensor:
        return F.exp(self)

    def log(self: Any) -> Tensor:
        return F.log(self)

    def sqrt(self: Any) -> Tensor:
        return F.sqrt(self)

    def abs(self: Any) -> Tensor:
        return F.abs(self)

    def clip(self: Any, low: float | None = None, high: float | None = None) -> Tensor:
        return F.clip(self, low, high)

    def maximum(self: Any, other: Operand) -> Tensor:
        return F.maximum(self, other)

    def minimum(self: Any, other: Operand) -> Tensor:
        return F.minimum(self, other)

    def cast(self: Any, dtype: Any) -> Tensor:
        return F.cast(self, dtype)


def attach() -> None:
    """Attach the operators and methods to Tensor, each with its function's docstring."""
    for name, method in vars(Operators).items():
        if callable(method) or isinstance(method, property):
            if not method.__doc__ and (function := getattr(F, name, getattr(fused, name, None))):
                method.__doc__ = function.__doc__
            setattr(Tensor, name, method)


attach()
