"""Tensor and tape: reverse-mode automatic differentiation.

Each operation computes its result and leaves a Node behind: where the operands came from, and a function that turns
the gradient of the result into the gradients of the operands (a vector-Jacobian product, "vjp"). `backward` walks
the nodes from the loss to the leaves and applies the chain rule

    gradient(x) = sum over all y computed from x of  gradient(y) dy/dx .

The sum is the point of the order: a node may only be visited when every y has delivered its part. A node is always
younger than its operands, so "youngest first" is such an order.

    x ---> [mul] ---> [exp] ---> [sum] ---> loss         forward: each arrow is an operand
    x <--- [mul] <--- [exp] <--- [sum] <--- 1            backward: youngest node first

Baydin, Pearlmutter, Radul, Siskind, "Automatic Differentiation in Machine Learning: a Survey", arXiv:1502.05767.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Number
from threading import get_ident
from types import UnionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, get_args

import numpy as np

from . import debug
from .backend import WIDE, Array, as_floats, is_masked, to_host, xp
from .errors import UserError, shown
from .observe import ledger

if TYPE_CHECKING:
    from .operators import Operators
else:
    Operators = object  # operators.py attaches them to Tensor, since their functions need it

Vjp: TypeAlias = Callable[[Array], tuple[Array, ...]]  # gradient of the result -> one gradient per input
Defer: TypeAlias = Callable[[Callable[[], None]], None]  # receives work to be done later
WeightVjp: TypeAlias = Callable[..., Array]  # (gradient of the result, out=None) -> gradient of the parameter
Edge: TypeAlias = "Node | Tensor | None"
Order: TypeAlias = "Callable[[Sequence[Tensor]], tuple[list[Node], dict[Tensor, int]]]"  # see youngest_first

P = ParamSpec("P")
R = TypeVar("R")

_births = itertools.count()  # a node's order; next() on it is atomic, so threads may share it
_deferring: ContextVar["Defer | None"] = ContextVar("deferring", default=None)  # of the backward that is running
_recording: ContextVar[bool] = ContextVar("recording", default=True)  # each thread starts with the default
_segment: ContextVar[Any] = ContextVar("segment", default=None)  # that is at work in this thread: see `inside`
without_grad: set[int] = set()  # the threads inside no_grad, for one that asks what another is doing


class Tensor(Operators):
    """An array of floating point and, when a gradient can flow through it, the place it has on the tape.

    data: an array or a list of numbers; with a `dtype`, integers are converted, and without one they are refused.
    A *leaf* (no node) with `requires_grad` collects its gradient in `grad`; `on_ready(leaf)` is called once per
    backward, after the last of its consumers has contributed. Operators and methods such as
    `sum` are attached in operators.py.
    """

    __slots__ = ("data", "grad", "node", "on_ready", "requires_grad", "segment")
    __array_ufunc__ = None  # `numpy_array * tensor` comes to Tensor.__rmul__ instead of looping over elements

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        known = dtype is None and type(data) is xp.ndarray and data.dtype in WIDE  # the result of an operation
        self.data: Array = data if known else as_floats("Tensor", data, dtype)
        if type(requires_grad) is not bool:
            raise TypeError(f"Tensor: requires_grad is {shown(requires_grad)}; give True or False (and dtype by name)")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Node | None = None
        self.on_ready: Callable[[Any], None] | None = None
        self.segment: Any = None  # in which this was computed; others must not use it

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number. Raises ValueError for any other."""
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
        """The length of the first axis. Raises TypeError without one."""
        if not self.ndim:
            raise TypeError("a tensor without axes has no length, and no elements to go through")
        return self.shape[0]

    def __iter__(self) -> "Iterator[Tensor]":
        """The rows, each on the tape."""
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether this is the same object: tensors are keys of dictionaries. Raises TypeError for numbers."""
        if isinstance(other, (Number, np.generic, np.ndarray, xp.ndarray, list, tuple)):
            raise TypeError(f"a Tensor is not compared with {shown(other)}; compare its array: tensor.data == ...")
        return self is other if isinstance(other, Tensor) else NotImplemented

    __hash__ = object.__hash__

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        """Raises TypeError: what NumPy computes is not on the tape."""
        raise TypeError(f"{shown(self)} does not become an array by itself; take its array: tensor.data")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Of a leaf, for copies and pickles. Raises TypeError on the tape: a copied node would share its vjps."""
        if self.node is not None:
            raise TypeError(f"{shown(self)} is on the tape and is not copied or pickled; detach() it first")
        return super().__reduce_ex__(protocol)

    def detach(self) -> "Tensor":
        """The same array, cut off from the tape."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array: `data` itself, which must not be changed, or a copy of it from the device."""
        return to_host(self.data)

    def zero_grad(self) -> None:
        """Forget the gradient, to which the next backward would add."""
        self.grad = None

    def backward(self, gradient: Array | None = None) -> None:
        """Puts d(self)/d(leaf) into the `grad` of every leaf. See `backward`."""
        backward([self], [gradient])

    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        """Adds vjp(g) to the gradient of this leaf. A Parameter does this in place, in its bucket."""
        self.grad = accumulated(self.grad, vjp(g))

    def ready(self) -> None:
        """This leaf's gradient is complete, as far as one backward goes."""
        if self.on_ready is not None:
            self.on_ready(self)


class Node:
    """One operation on the tape: who gave the operands, and how a gradient passes through.

    It keeps nodes and leaves, never the operands' arrays: an array stays alive only if the operation says that its
    backward needs it (`saved`).
    """

    __slots__ = ("edges", "order", "saved", "spent", "sums", "vjp", "weights")

    def __init__(
        self,
        edges: tuple[Edge, ...],
        vjp: Vjp | None,
        weights: tuple[tuple[Tensor, WeightVjp | None], ...],
        saved: tuple,
    ) -> None:
        self.order = next(_births)
        self.edges = edges
        self.vjp = vjp
        self.weights = weights
        self.saved = saved
        self.spent = False
        self.sums = debug.checksums(saved, [p for p, vjp in weights if vjp is not None]) if debug.on else []

    @property
    def operation(self) -> str:
        """The function that made this node, as "linear" or "gelu"."""
        return _named(self.vjp or (self.weights[0][1] if self.weights else None))

    def free(self) -> None:
        """Lets go of everything that was kept for backward."""
        self.edges, self.vjp, self.weights, self.saved, self.sums, self.spent = (), None, (), (), [], True


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with a check: TypeError for what is not a Tensor where the signature says Tensor.

    An array has many of a tensor's attributes, and would get far. Lists of tensors are for `check_tensors`.
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
    """Raises TypeError unless this is a list or a tuple of tensors."""
    wrong = [x for x in given if not isinstance(x, Tensor)] if isinstance(given, (list, tuple)) else [given]
    if wrong:
        raise TypeError(f"{name}: {shown(wrong[0])} is given; give a list of tensors")


def apply(
    data: Array,
    inputs: Sequence[Tensor] = (),
    vjp: Vjp | None = None,
    weights: Iterable[tuple[Tensor, WeightVjp | None]] = (),
    saved: tuple = (),
) -> Tensor:
    """Makes the result of an operation, on the tape if a gradient has to pass through it.

    inputs: the activations, with one `vjp(g)` for all of them together, since they share work: it returns a gradient
    for each. weights: pairs (parameter, `vjp(g, out=None)`), one vjp for each parameter, which writes into `out`
    when that is given and never reads a parameter. (The two are apart so that a pipeline may do the second later.)
    A weight whose vjp is None got its gradient by other means, such as a backward inside `vjp`: it is only counted.
    Without inputs, `vjp` is called for what it does.
    saved: the arrays that the two kinds of vjp keep alive; parameters are read through their Tensor when
    backward runs, never kept.
    """
    result = Tensor(data)
    ledger.hold(result.data, "buffers", "forward")
    segment = _segment.get()
    _check_segment(inputs, segment, vjp)
    trained = tuple(pair for pair in weights if pair[0].requires_grad)
    if segment is not None and (trained or any(x.requires_grad or x.segment is not None for x in inputs)):
        result.segment = segment
    if not _recording.get():
        return result
    for p, made_by in trained:
        if p.node is not None:
            raise TypeError(
                f"{_named(made_by)}: a weight of shape {p.shape} was computed, by {p.node.operation!r}; give a leaf.\n"
                "Use functional.matmul, multiply and add, or index for a table: they take any tensor"
            )
    if trained or any(x.requires_grad for x in inputs):
        result.requires_grad = True
        result.node = Node(tuple(edge_of(x) for x in inputs), vjp, trained, saved)
        for kept in saved:
            ledger.hold(kept.data if isinstance(kept, Tensor) else kept, "activations", "forward", result.node)
    return result


@contextmanager
def inside(segment: Any) -> Iterator[None]:
    """What is computed here belongs to this segment, a part of the tape that is an operation of the tape outside.

    Its gradient passes through the segment's input and result alone. Any other way, a gradient would be lost.
    """
    token = _segment.set(segment)
    try:
        yield
    finally:
        _segment.reset(token)


def _check_segment(inputs: Sequence[Tensor], segment: Any, vjp: Vjp | None) -> None:
    """Raise UserError for a tensor that another segment has computed."""
    for x in inputs:
        if x.segment is not None and x.segment is not segment:
            raise UserError(
                f"{_named(vjp)} is given a tensor {x.shape} that was computed in {x.segment}, and is called "
                f"{'outside' if segment is None else f'in {segment}'}.\n"
                "Under recompute and ZeRO-3 a unit gives what it returns and nothing else: let it return this too, "
                "or make one unit of the two"
            )


def _named(made_by: Callable[..., Any] | None) -> str:
    """The operation in which this vjp was made."""
    return "?" if made_by is None else made_by.__qualname__.partition(".")[0]


def edge_of(x: Tensor) -> Edge:
    """Where a gradient of x goes: to the node that made it, to x itself when it is a leaf, or nowhere."""
    return x.node if x.node is not None else x if x.requires_grad else None


def youngest_first(roots: Sequence[Tensor]) -> tuple[list[Node], dict[Tensor, int]]:
    """The nodes below the roots, each once, youngest first; and for each leaf how often they and the roots use it.

    A root leads to edge_of(root). A node leads on to its `edges` (nodes, leaves, or None) and to the leaves in its
    `weights`, which are pairs (leaf, vjp). Its age is its `order`: the larger, the younger.
    A loop with a list, not a recursion: a chain of a million operations is no deeper than one of two.
    Raises RuntimeError for a node that is `spent`, that is, was freed by an earlier backward.
    """
    found: set[Node] = set()
    consumers: dict[Tensor, int] = {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop()
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None and edge not in found:
            if edge.spent:
                raise RuntimeError(
                    "backward: this part of the tape was freed by an earlier backward. "
                    "Give all roots to one call, or compute the forward again"
                )
            found.add(edge)
            pending.extend(edge.edges)
            pending.extend(leaf for leaf, _ in edge.weights)
    return sorted(found, key=lambda node: -node.order), consumers


def accumulated(grad: Array | None, part: Array) -> Array:
    """A leaf's gradient when one more part of it has come; grad is what there was before, None at first.

    A new array (an ndarray even without axes): somebody may still hold the old one, and must not see it change.
    """
    return part if grad is None else xp.asarray(grad + part)


def backward(
    roots: Sequence[Tensor],
    gradients: Sequence[Array | None] | None = None,
    defer: Defer | None = None,
    fire: bool = True,
    order: Order = youngest_first,
) -> None:
    """Adds to the gradient of every leaf below `roots`: sum over roots of gradient(root) d(root)/d(leaf).

    roots: tensors of any shape; gradients: an array for each, or None for 1.0 where the root has one element.
    defer: receives the work on parameters as functions to be called later, in any order, instead of having it done at
    once (zero-bubble pipelines). fire: whether leaves are told that they are complete (not in a replay).
    order: finds the nodes, every node after all that were computed from it, and counts the uses of each leaf.
    The tape below the roots is freed; a second backward through it raises RuntimeError.
    """
    seeds = _seeds(roots, gradients)
    nodes, consumers = order(roots)
    arrived: dict[Node, Array] = {}
    own: set[Node] = set()  # nodes whose gradient is an array of ours, so that adding in place is safe

    def contribute(leaf: Tensor, vjp: WeightVjp | None, g: Array) -> None:
        if vjp is not None:
            leaf.accumulate(vjp, g)
        consumers[leaf] -= 1
        if fire and consumers[leaf] == 0:
            leaf.ready()

    def arrive(edge: Edge, g: Array) -> None:
        if edge is None:
            return
        ledger.hold(g, "buffers", "backward", node)
        if isinstance(edge, Tensor):
            contribute(edge, _copy, g)
        elif edge not in arrived:
            arrived[edge] = g  # may be an alias of somebody else's array: never written to
        elif edge in own:
            arrived[edge] += g
        else:
            arrived[edge] = arrived[edge] + g
            ledger.hold(arrived[edge], "buffers", "backward", node)
            own.add(edge)

    node: Node | None = None  # the one that is being visited
    for root, seed in zip(roots, seeds, strict=True):
        arrive(edge_of(root), seed)
    token = _deferring.set(defer)
    try:
        for node in nodes:
            g = arrived.pop(node)
            debug.check_unchanged(node)
            if node.vjp is not None and (not node.edges or any(edge is not None for edge in node.edges)):
                for edge, part in zip(node.edges, node.vjp(g), strict=True):
                    arrive(edge, part)
            for leaf, vjp in node.weights:
                if defer is None:
                    contribute(leaf, vjp, g)
                else:
                    defer(lambda leaf=leaf, vjp=vjp, g=g: contribute(leaf, vjp, g))  # type: ignore[misc]
            node.free()
    finally:
        _deferring.reset(token)


def deferring() -> Defer | None:
    """What receives the work on parameters in the backward that is running, for a backward inside one of its vjps."""
    return _deferring.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside leave nothing on the tape (evaluation, sampling). Per thread."""
    token, thread = _recording.set(False), get_ident()
    nested = thread in without_grad
    without_grad.add(thread)
    try:
        yield
    finally:
        _recording.reset(token)
        if not nested:
            without_grad.discard(thread)


def recording() -> bool:
    """Whether operations leave nodes behind at the moment."""
    return _recording.get()


def _copy(g: Array, out: Array | None = None) -> Array:
    """The vjp of a leaf that is used as an activation. A copy: g may be another tensor's gradient as well."""
    if out is None:
        return xp.array(g)
    out[...] = g
    return out


def _seeds(roots: Sequence[Tensor], gradients: Sequence[Array | None] | None) -> list[Array]:
    """A gradient for each root."""
    check_tensors("backward", roots)
    gradients = [None] * len(roots) if gradients is None else gradients
    if not isinstance(gradients, (list, tuple)):
        raise TypeError(f"backward: gradients is {shown(gradients)}; give a list with an array for each root")
    if len(gradients) != len(roots):
        raise ValueError(f"backward: there are {len(roots)} roots and {len(gradients)} gradients")
    return [_seed(root, g) for root, g in zip(roots, gradients, strict=True)]


def _seed(root: Tensor, g: Array | None) -> Array:
    if not root.requires_grad:
        raise RuntimeError("backward: this tensor was not computed from anything that requires a gradient")
    if g is None:
        if root.data.size != 1:
            raise RuntimeError(f"backward: a root of shape {root.shape} needs a gradient; only one element may omit it")
        return xp.ones_like(root.data)
    if not isinstance(g, (xp.ndarray, np.generic)) or is_masked(g):
        raise TypeError(f"backward: the gradient is {shown(g)}; give an array of the root's shape and dtype")
    if g.shape != root.shape:
        raise RuntimeError(f"backward: the root has shape {root.shape}, the gradient {g.shape}")
    if g.dtype != root.dtype:
        raise TypeError(f"backward: the root is {root.dtype}, the gradient {g.dtype}; cast it")
    return xp.asarray(g)  # no subclass, which may multiply in another way
