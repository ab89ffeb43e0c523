"""Tensor, a floating-point array that may be on the tape, and a check that operations are given tensors.

The tape is autograd.py's record of the operations applied to tensors. Integers, NumPy's functions, copies of tensors on
the tape and `==` with a number or an array would silently give wrong results, so they raise TypeError.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from numbers import Number
from types import UnionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, get_args

import numpy as np

from .backend import WIDE, Array, to_host, xp
from .errors import shown
from .operands import as_floats

if TYPE_CHECKING:
    from .autograd import Node
    from .operators import Operators
else:
    Operators = object  # operators.py, which needs Tensor, attaches them to it

WeightVjp: TypeAlias = Callable[..., Array]  # (gradient of the result, out=None) -> gradient of the parameter

P = ParamSpec("P")
R = TypeVar("R")


class Tensor(Operators):
    """A floating-point array and, if a gradient can flow through it, its node on the tape.

    data: an array or a list of numbers, of any shape. Integers are converted to `dtype`; without a dtype they raise
    TypeError. A *leaf* (a tensor without a node) with `requires_grad` accumulates its gradient in `grad`. Each
    backward calls `on_ready(leaf)` once, after the leaf's last consumer has contributed. operators.py attaches the
    operators and methods such as `sum`.
    """

    __slots__ = ("data", "grad", "node", "on_ready", "requires_grad", "segment")
    __array_ufunc__ = None  # `numpy_array * tensor` calls Tensor.__rmul__ instead of looping over elements

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        known = dtype is None and type(data) is xp.ndarray and data.dtype in WIDE  # the result of an operation
        self.data: Array = data if known else as_floats("Tensor", data, dtype)
        if type(requires_grad) is not bool:
            raise TypeError(f"Tensor: requires_grad is {shown(requires_grad)}; give True or False (and dtype by name)")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Node | None = None
        self.on_ready: Callable[[Any], None] | None = None
        self.segment: Any = None  # the recompute.Segment that computed it; no other may use it

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        """The floating-point type of the elements, one of backend.FLOATS."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def item(self) -> float:
        """Return the value of a one-element tensor as a Python float. Raise ValueError for any other size."""
        if self.data.size != 1:
            raise ValueError(f"a tensor of shape {self.shape} has no single value; take its array: tensor.data")
        return self.data.item()

    def __float__(self) -> float:
        return self.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        """Return the length of the first axis. Raise TypeError for a 0-d tensor."""
        if not self.ndim:
            raise TypeError("a tensor without axes has no length and cannot be iterated over")
        return self.shape[0]

    def __iter__(self) -> "Iterator[Tensor]":
        """Yield the slices along the first axis, each on the tape."""
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare identity, as tensors serve as dictionary keys. Raise TypeError for a number, an array or a list."""
        if isinstance(other, (Number, np.generic, np.ndarray, xp.ndarray, list, tuple)):
            raise TypeError(f"a Tensor cannot be compared with {shown(other)}; compare its array: tensor.data == ...")
        return self is other if isinstance(other, Tensor) else NotImplemented

    __hash__ = object.__hash__

    def __setitem__(self, item: Any, value: Any) -> None:
        """Raise TypeError: the tape does not record assignments."""
        raise TypeError(f"elements cannot be assigned: {shown(self)}; off the tape, use tensor.data[item] = value")

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        """Raise TypeError: the tape does not record what NumPy computes."""
        raise TypeError(f"{shown(self)} is not converted to an array implicitly; take its array: tensor.data")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Let leaves be copied and pickled. Raise TypeError on the tape: the copied node would share its vjps."""
        if self.node is not None:
            raise TypeError(f"{shown(self)} is on the tape and cannot be copied or pickled; detach() it first")
        return super().__reduce_ex__(protocol)

    def detach(self) -> "Tensor":
        """Return a tensor that shares the array but is not on the tape."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array: `data` itself (do not modify it), or on a GPU a copy."""
        return to_host(self.data)

    def zero_grad(self) -> None:
        """Discard the gradient; otherwise the next backward would add to it."""
        self.grad = None

    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        """Add vjp(g) to this leaf's gradient. A Parameter does so in place, in its bucket."""
        self.grad = accumulated(self.grad, vjp(g))

    def ready(self) -> None:
        """Call `on_ready`: this backward has completed the leaf's gradient."""
        if self.on_ready is not None:
            self.on_ready(self)


def accumulated(grad: Array | None, part: Array) -> Array:
    """Return a leaf's gradient after adding `part`. grad: the gradient so far, None at first.

    The sum is a new array of the same shape and dtype (an ndarray even if 0-d): other code may still hold the old
    arrays and must not see them change.
    """
    return part if grad is None else xp.asarray(grad + part)


def copied(g: Array, out: Array | None = None) -> Array:
    """Copy g, which may also be another tensor's gradient. This is the vjp of a leaf that is used as an activation."""
    if out is None:
        return xp.array(g)
    out[...] = g
    return out


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap the function to raise TypeError if an argument annotated as Tensor is not one.

    Without this check, an array, which has many of a tensor's attributes, would cause an error only much later.
    `check_tensors` checks lists of tensors.
    """
    places: list[tuple[int, str, tuple[type, ...]]] = []
    for i, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        union = isinstance(parameter.annotation, UnionType)
        allowed = get_args(parameter.annotation) if union else (parameter.annotation,)
        if any(isinstance(kind, type) and issubclass(kind, Tensor) for kind in allowed):
            places.append((i, name, allowed))

    @functools.wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        for i, name, allowed in places:
            given = args[i] if i < len(args) else options.get(name)
            if not isinstance(given, allowed) and (i < len(args) or name in options):
                raise TypeError(f"{function.__name__}: {name} is {shown(given)}; give a {allowed[0].__name__}")
        return function(*args, **options)

    return checked


def check_tensors(name: str, given: Any) -> None:
    """Raise TypeError unless `given` is a list or tuple of tensors."""
    wrong = [x for x in given if not isinstance(x, Tensor)] if isinstance(given, (list, tuple)) else [given]
    if wrong:
        raise TypeError(f"{name}: got {shown(wrong[0])}; give a list of tensors")
