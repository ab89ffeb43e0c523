"""The tape: reverse-mode automatic differentiation.

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

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any, TypeAlias

import numpy as np

from . import debug
from .backend import Array, xp
from .errors import UserError, shown
from .observe import ledger, recorder
from .operands import is_masked
from .tensor import Tensor, WeightVjp, check_tensors, copied

Vjp: TypeAlias = Callable[[Array], tuple[Array, ...]]  # gradient of the result -> one gradient per input
Defer: TypeAlias = Callable[[Callable[[], None]], None]  # receives work to run later
Edge: TypeAlias = "Node | Tensor | None"
Pair: TypeAlias = tuple[Tensor, WeightVjp | None]  # a weight and its vjp: see apply
Order: TypeAlias = "Callable[[Sequence[Tensor]], tuple[list[Node], dict[Tensor, int]]]"  # see youngest_first

_births = itertools.count()  # numbers the nodes; next() is atomic, so threads can share it
_deferring: ContextVar["Defer | None"] = ContextVar("deferring", default=None)  # of the running backward
_recording: ContextVar[bool] = ContextVar("recording", default=True)  # every thread starts with the default
_segment: ContextVar[Any] = ContextVar("segment", default=None)  # the one active in this thread: see `inside`
without_grad: set[int] = set()  # threads inside no_grad; other threads may look one up


class Node:
    """One operation on the tape: where its operands came from, and how a gradient passes through it.

    A node refers to other nodes and to leaves, never to the operands' arrays. An array stays alive only if the
    operation lists it in `saved`, because its backward needs it.
    """

    __slots__ = ("edges", "order", "saved", "spent", "sums", "vjp", "weights")

    def __init__(self, edges: tuple[Edge, ...], vjp: Vjp | None, weights: tuple[Pair, ...], saved: tuple) -> None:
        self.edges, self.vjp, self.weights, self.saved, self.spent = edges, vjp, weights, saved, False
        self.order = next(_births)
        self.sums = debug.checksums(saved, [p for p, vjp in weights if vjp is not None]) if debug.on else []

    @property
    def operation(self) -> str:
        """The name of the function that created this node, such as "linear" or "gelu"."""
        return _named(self.vjp or (self.weights[0][1] if self.weights else None))

    def free(self) -> None:
        """Release everything kept for the backward."""
        self.edges, self.vjp, self.weights, self.saved, self.sums, self.spent = (), None, (), (), [], True


def apply(
    data: Array, inputs: Sequence[Tensor] = (), vjp: Vjp | None = None, weights: Iterable[Pair] = (), saved: tuple = ()
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
    _record(vjp or (trained[0][1] if trained else None), "")
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


def _record(made_by: Callable[..., Any] | None, phase: str) -> None:
    """Let the open recorder, if any, note that the operation that defined this vjp has ended."""
    if (to := recorder.current()) is not None:
        to.operation("?" if made_by is None else made_by.__qualname__, phase)


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
    It changes neither `roots` nor the tape. Raise RuntimeError for a `spent` node, which an earlier backward freed.
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
    walk = _Walk(consumers, defer, fire)
    for root, seed in zip(roots, seeds, strict=True):
        walk.arrive(edge_of(root), seed)
    token = _deferring.set(defer)
    try:
        for node in nodes:
            walk.visit(node)
    finally:
        _deferring.reset(token)


class _Walk:
    """One backward: what has arrived at each node, and how often each leaf is still used."""

    def __init__(self, consumers: dict[Tensor, int], defer: Defer | None, fire: bool) -> None:
        self.defer = defer
        self.contribute = partial(contribute, consumers, fire)
        self.arrived: dict[Node, Array] = {}
        self.own: set[Node] = set()  # nodes whose gradient we allocated, so adding in place is safe
        self.node: Node | None = None  # the one being visited

    def visit(self, node: Node) -> None:
        """Pass the node's gradient, to which every consumer has contributed, on to its operands and weights."""
        self.node, g = node, self.arrived.pop(node)
        debug.check_unchanged(node)
        if node.vjp is not None and (not node.edges or any(edge is not None for edge in node.edges)):
            for edge, part in zip(node.edges, node.vjp(g), strict=True):
                self.arrive(edge, part)
            _record(node.vjp, "backward")
        for leaf, vjp in node.weights:
            if self.defer is None:
                self.contribute(leaf, vjp, g)
            else:
                self.defer(partial(self.contribute, leaf, vjp, g))
        node.free()

    def arrive(self, edge: Edge, g: Array) -> None:
        """Add g to the gradient of the node or leaf at the end of this edge."""
        if edge is None:
            return
        ledger.hold(g, "buffers", "backward", self.node)
        if isinstance(edge, Tensor):
            self.contribute(edge, copied, g)
        elif edge not in self.arrived:
            self.arrived[edge] = g  # may alias another array: never write to it
        elif edge in self.own:
            self.arrived[edge] += g
        else:
            self.arrived[edge] = self.arrived[edge] + g
            ledger.hold(self.arrived[edge], "buffers", "backward", self.node)
            self.own.add(edge)


def contribute(consumers: dict[Tensor, int], fire: bool, leaf: Tensor, vjp: WeightVjp | None, g: Array) -> None:
    """Add vjp(g) to the leaf's gradient (None: it comes from elsewhere), and report the leaf once complete.

    It may be deferred, so it must not keep the walk and its arrays alive.
    """
    if vjp is not None:
        leaf.accumulate(vjp, g)
        _record(vjp, "weight gradient")
    consumers[leaf] -= 1
    if consumers[leaf] == 0:
        del consumers[leaf]  # deferred contributions keep the dictionary, which must not keep an activation
        if fire:
            leaf.ready()


def deferring() -> Defer | None:
    """Return the argument defer of the running backward, for a nested backward inside one of its vjps."""
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
