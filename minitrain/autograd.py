"""Tensor and tape: reverse-mode automatic differentiation.

Each operation computes its result and records a Node on the tape: where the operands came from, and a function that
maps the gradient of the result to the gradients of the operands (a vector-Jacobian product, "vjp"). `backward`
walks the nodes from the loss to the leaves and applies the chain rule

    gradient(x) = sum over all y computed from x of  gradient(y) dy/dx .

The sum dictates the order: a node may be visited only after every y has contributed its term. A node is always
younger than its operands, so visiting the youngest node first is a valid order.

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
    Operators = object  # operators.py, which needs Tensor, attaches them to it

Vjp: TypeAlias = Callable[[Array], tuple[Array, ...]]  # gradient of the result -> one gradient per input
Defer: TypeAlias = Callable[[Callable[[], None]], None]  # receives work to run later
WeightVjp: TypeAlias = Callable[..., Array]  # (gradient of the result, out=None) -> gradient of the parameter
Edge: TypeAlias = "Node | Tensor | None"
Order: TypeAlias = "Callable[[Sequence[Tensor]], tuple[list[Node], dict[Tensor, int]]]"  # see youngest_first

P = ParamSpec("P")
R = TypeVar("R")

_births = itertools.count()  # numbers the nodes; next() is atomic, so threads can share it
_deferring: ContextVar["Defer | None"] = ContextVar("deferring", default=None)  # of the running backward
_recording: ContextVar[bool] = ContextVar("recording", default=True)  # every thread starts with the default
_segment: ContextVar[Any] = ContextVar("segment", default=None)  # the one active in this thread: see `inside`
without_grad: set[int] = set()  # threads inside no_grad; other threads may look one up


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
        self.segment: Any = None  # the one that computed this tensor; no other may use it

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

    def backward(self, gradient: Array | None = None) -> None:
        """Add d(self)/d(leaf), weighted by `gradient`, to the `grad` of every leaf. See the function `backward`."""
        backward([self], [gradient])

    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        """Add vjp(g) to this leaf's gradient. A Parameter does so in place, in its bucket."""
        self.grad = accumulated(self.grad, vjp(g))

    def ready(self) -> None:
        """Call `on_ready`: this backward has completed the leaf's gradient."""
        if self.on_ready is not None:
            self.on_ready(self)


class Node:
    """One operation on the tape: where its operands came from, and how a gradient passes through it.

    A node refers to other nodes and to leaves, never to the operands' arrays. An array stays alive only if the
    operation lists it in `saved`, because its backward needs it.
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
        """The name of the function that created this node, such as "linear" or "gelu"."""
        return _named(self.vjp or (self.weights[0][1] if self.weights else None))

    def free(self) -> None:
        """Release everything kept for the backward."""
        self.edges, self.vjp, self.weights, self.saved, self.sums, self.spent = (), None, (), (), [], True


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap the function to raise TypeError if an argument annotated as Tensor is not one.

    Without the check an array, which has many of a tensor's attributes, would fail much later. `check_tensors`
    checks lists of tensors.
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


def apply(
    data: Array,
    inputs: Sequence[Tensor] = (),
    vjp: Vjp | None = None,
    weights: Iterable[tuple[Tensor, WeightVjp | None]] = (),
    saved: tuple = (),
) -> Tensor:
    """Return the result of an operation, on the tape if a gradient has to pass through it.

    inputs: the activations. They share one `vjp(g)`, which returns a gradient for each; without inputs, `vjp` is
    called for its side effects.
    weights: pairs (parameter, `vjp(g, out=None)`), one vjp per parameter. It writes into `out` if given, and never
    reads a parameter. The two kinds are separate so that a pipeline can defer the second. A vjp of None marks a weight
    whose gradient comes from elsewhere, such as a backward inside `vjp`: the weight is only counted.
    saved: the arrays that the vjps keep alive. Parameters are never saved: backward reads them through their Tensor.
    Raise TypeError for a weight that is not a leaf, UserError for an input computed in another segment.
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
                f"{_named(made_by)}: a weight of shape {p.shape} was computed by {p.node.operation!r}; give a leaf.\n"
                "Use functional.matmul, multiply and add, or index for a table: they accept any tensor"
            )
    if trained or any(x.requires_grad for x in inputs):
        result.requires_grad = True
        result.node = Node(tuple(edge_of(x) for x in inputs), vjp, trained, saved)
        for kept in saved:
            ledger.hold(kept.data if isinstance(kept, Tensor) else kept, "activations", "forward", result.node)
    return result


@contextmanager
def inside(segment: Any) -> Iterator[None]:
    """Mark what is computed here as part of a segment, a piece of the tape that the outer tape sees as one operation.

    Gradients enter and leave only through the segment's result and input: on any other path they would be lost.
    """
    token = _segment.set(segment)
    try:
        yield
    finally:
        _segment.reset(token)


def _check_segment(inputs: Sequence[Tensor], segment: Any, vjp: Vjp | None) -> None:
    """Raise UserError if another segment computed one of the inputs."""
    for x in inputs:
        if x.segment is not None and x.segment is not segment:
            raise UserError(
                f"{_named(vjp)} got a tensor {x.shape} that was computed in {x.segment}, but is called "
                f"{'outside' if segment is None else f'in {segment}'}.\n"
                "Under recompute and ZeRO-3 only what a unit returns may be used outside it: return this tensor too, "
                "or merge the two units"
            )


def _named(made_by: Callable[..., Any] | None) -> str:
    """Return the name of the operation that defined this vjp."""
    return "?" if made_by is None else made_by.__qualname__.partition(".")[0]


def edge_of(x: Tensor) -> Edge:
    """Return where a gradient of x goes: the node that computed x, x itself if it is a leaf, or None."""
    return x.node if x.node is not None else x if x.requires_grad else None


def youngest_first(roots: Sequence[Tensor]) -> tuple[list[Node], dict[Tensor, int]]:
    """Return the nodes below the roots, each once, youngest first; and for each leaf how often nodes and roots use it.

    A root leads to edge_of(root). A node leads to its `edges` (nodes, leaves, or None) and to the leaves in its
    `weights`, which are pairs (leaf, vjp). `order` gives its age: the larger, the younger.
    The search is a loop over a list: a recursion would overflow the stack on a chain of a million operations.
    Raise RuntimeError for a `spent` node, which an earlier backward freed.
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
    """Return a leaf's gradient after adding `part`. grad: the gradient so far, None at first.

    The sum is a new array (an ndarray even if 0-d): other code may still hold the old one and must not see it change.
    """
    return part if grad is None else xp.asarray(grad + part)


def backward(
    roots: Sequence[Tensor],
    gradients: Sequence[Array | None] | None = None,
    defer: Defer | None = None,
    fire: bool = True,
    order: Order = youngest_first,
) -> None:
    """Add sum over roots of gradient(root) d(root)/d(leaf) to the gradient of every leaf below `roots`.

    roots: tensors of any shape. gradients: one array per root, of its shape and dtype; None means 1.0 for a root with
    one element. defer: receives the parameter gradients as functions to call later, in any order (zero-bubble
    pipelines). fire: whether to call `on_ready` on complete leaves (a replay does not).
    order: returns the nodes, each after all nodes computed from it, and counts the uses of each leaf.
    Free the tape below the roots: a second backward through it raises RuntimeError.
    """
    seeds = _seeds(roots, gradients)
    nodes, consumers = order(roots)
    arrived: dict[Node, Array] = {}
    own: set[Node] = set()  # nodes whose gradient we allocated, so adding in place is safe

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
            arrived[edge] = g  # may alias another array: never write to it
        elif edge in own:
            arrived[edge] += g
        else:
            arrived[edge] = arrived[edge] + g
            ledger.hold(arrived[edge], "buffers", "backward", node)
            own.add(edge)

    node: Node | None = None  # the node being visited
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
    """Return the `defer` of the running backward, for a nested backward inside one of its vjps."""
    return _deferring.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing on the tape inside (evaluation, sampling). Affects the calling thread only."""
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
    """Return whether operations in this thread are recorded on the tape."""
    return _recording.get()


def _copy(g: Array, out: Array | None = None) -> Array:
    """The vjp of a leaf used as an activation. It copies, because g may also be another tensor's gradient."""
    if out is None:
        return xp.array(g)
    out[...] = g
    return out


def _seeds(roots: Sequence[Tensor], gradients: Sequence[Array | None] | None) -> list[Array]:
    """Return one gradient per root, after checking them."""
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
    return xp.asarray(g)  # a subclass might override multiplication
