"""What this lesson's checks draw, and how they use a student's function: products, broadcasts, graphs, parts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.autograd import Node, edge_of
from minitrain.backend import FLOATS, Array
from minitrain.observe.ledger import Ledger
from minitrain.tensor import Tensor

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]
Graph = dict[int, tuple[Sequence[Any], Sequence[Any]]]  # number -> (names of leaves, numbers of nodes, None; weights)

LENGTHS = st.sampled_from((1, 2, 3, 2, 3, 0))
STRETCHED = st.sampled_from(((1, 2), (2, 2), (1, 3), (3, 3), (1, 1), (1, 0), (0, 0)))  # an axis before and after
DTYPES = st.sampled_from(FLOATS[::-1])
WITH = ("tensor", "constant", "array")  # an operand: a tensor that requires a gradient, one that does not, an array
BEYOND_FLOAT32 = 2**24 + 1  # whole, and not a float32
VALUES: dict[int, tuple[int, ...]] = {2: (0, 1, -1), 4: (0, 1, -1, 5, -9), 8: (0, BEYOND_FLOAT32, -9, 1)}


def arrays(shape: Shape, dtype: np.dtype, others: tuple[float, ...] = ()) -> st.SearchStrategy[Array]:
    """Return arrays of whole numbers, so small that sums of products are exact in any order, and of others."""
    values = np.array(VALUES[dtype.itemsize] + others).astype(dtype)
    return st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).choice(values, shape))


# 01.1 -----------------------------------------------------------------------------------------------------------------


@st.composite
def products(draw: Draw) -> tuple[Array, Array, Array, tuple[str, str]]:
    """Draw a, b, the gradient of their product, and what a and b are: see WITH."""
    dtype, lead = draw(DTYPES), draw(st.lists(LENGTHS, max_size=2))
    n, k, m = draw(st.tuples(LENGTHS, LENGTHS, LENGTHS))
    some = [part_of(draw, lead) for _ in "ab"]
    shapes = (*some[0], n, k), (*some[1], k, m), (*np.broadcast_shapes(*some), n, m)
    a, b, g = (draw(arrays(shape, dtype)) for shape in shapes)
    kinds = st.tuples(st.sampled_from(WITH), st.sampled_from(WITH)).filter(lambda kinds: "tensor" in kinds)
    return a, b, g, draw(kinds)


def part_of(draw: Draw, axes: Sequence[int]) -> Shape:
    """Draw leading axes that broadcast to these: some are missing, some have length 1."""
    kept = axes[draw(st.integers(0, len(axes))) :]
    return tuple(1 if draw(st.booleans()) else n for n in kept)


def multiplied(matmul: Callable[..., Tensor], a: Array, b: Array, g: Array, kinds: tuple[str, str]) -> dict[str, Any]:
    """Return y = a b, both gradients, and if both are needed the memory kept and the work."""
    given = [x if kind == "array" else Tensor(x, kind == "tensor") for x, kind in zip((a, b), kinds, strict=True)]
    with Ledger().open() as ledger:
        y = matmul(*given)
        kept = ledger.live["activations"]
        y.backward(g)
    ga, gb = (x.grad if isinstance(x, Tensor) else None for x in given)
    found = {"y": y.data, "the gradient of a": ga, "the gradient of b": gb}
    costs = {"the bytes that `saved` names": kept, "the FLOPs that the ledger counts": ledger.flops}
    return found | costs if kinds == ("tensor", "tensor") else found


# 01.2 -----------------------------------------------------------------------------------------------------------------


@st.composite
def broadcasts(draw: Draw) -> tuple[Array, Shape]:
    """Draw the gradient of x after broadcasting, and the shape of x."""
    axes, added = draw(st.lists(STRETCHED, max_size=3)), draw(st.lists(LENGTHS, max_size=3))
    return draw(arrays((*added, *(n for _, n in axes)), draw(DTYPES))), tuple(n for n, _ in axes)


def summed(unbroadcast: Callable[..., Any], g: Array, shape: Shape) -> Any:
    """Return the gradient; NumPy's number, which its sums give, counts as an array without axes."""
    gx = unbroadcast(g, shape)
    return np.asarray(gx) if isinstance(gx, np.generic) else gx


# 01.3 -----------------------------------------------------------------------------------------------------------------


class Leaf(Tensor):
    """A leaf of a derived class, as a Parameter is."""

    __slots__ = ()


NODES = st.integers(1, 5)
ENDS = st.lists(st.one_of(st.sampled_from(("x", "y")), NODES, NODES, st.none()), max_size=3)
WEIGHTS = st.lists(st.tuples(st.sampled_from(("x", "y")), st.sampled_from(("vjp", None))), max_size=2)


def graphs() -> st.SearchStrategy[tuple[Graph, Sequence[Any], Sequence[int]]]:
    """Return graphs: nodes 1, 2, ... from old to young; roots, in a list or a tuple; spent nodes, mostly none."""

    def known(ends: Sequence[Any], nodes: int) -> list[Any]:
        return [1 + end % nodes if isinstance(end, int) else end for end in ends if nodes or not isinstance(end, int)]

    def graph(nodes: list[Any], roots: list[Any], kind: type, spent: Sequence[int]) -> tuple[Graph, Any, Sequence[int]]:
        numbered = {i: (known(edges, i - 1), weights) for i, (edges, weights) in enumerate(nodes, 1)}
        return numbered, kind(known(roots, len(nodes))), known(spent, len(nodes))

    nodes, spent = st.lists(st.tuples(ENDS, WEIGHTS), max_size=5), st.one_of(st.just(()), st.tuples(NODES))
    return st.builds(graph, nodes, ENDS, st.sampled_from((list, tuple)), spent)


def walked(order: Callable[..., Any], nodes: Graph, roots: Sequence[Any], spent: Sequence[int]) -> dict[str, Any]:
    """Build the graph. Return what two calls find and what they change."""
    named: dict[Any, Tensor] = {"x": Tensor(1.0, True), "y": Leaf(1.0, True), None: Tensor(1.0)}
    tape: dict[Node, int] = {}
    for number, (edges, weights) in nodes.items():
        pairs = tuple((named[leaf], vjp and same) for leaf, vjp in weights)
        node = Node(tuple(edge_of(named[edge]) for edge in edges), same, pairs, ())
        named[number], tape[node] = Tensor(1.0, True), number
        named[number].node = node
        if number in spent:
            node.free()
    given, names = type(roots)(named[root] for root in roots), {tensor: name for name, tensor in named.items()}
    before = [contents(node) for node in tape]
    try:
        (found, uses), (again, _) = order(given), order(given)
    except RuntimeError as error:
        raise RuntimeError(*error.args) from error  # the student's may be of a derived class
    return {
        "the nodes": [tape.get(node) for node in found],
        "the uses of leaves": sorted((str(names.get(leaf)), n) for leaf, n in uses.items()),
        "the nodes of a second call": [tape.get(node) for node in again],
        "the roots after the call": [names.get(root) for root in given],
        "the nodes that are changed": [i for node, i in tape.items() if contents(node) != before[i - 1]],
    }


def contents(node: Node) -> tuple[Any, ...]:
    """Return all that a node refers to."""
    return node.edges, node.weights, node.vjp, node.saved, node.order, node.spent


def same(g: Array, out: Array | None = None) -> tuple[Array]:
    """The vjp of every drawn node."""
    return (g,)


# 01.4 -----------------------------------------------------------------------------------------------------------------


@st.composite
def parts(draw: Draw) -> tuple[list[Array]]:
    """Draw the parts of one gradient. Some are 0, and some have overflowed."""
    dtype, shape = draw(DTYPES), draw(st.sampled_from(((), (2,), (1,), (2, 2), (0,))))
    others = (np.inf, np.nan) if dtype.kind == "f" else ()  # NumPy's array_equal knows no NaN of bfloat16
    return (draw(st.lists(arrays(shape, dtype, others), min_size=1, max_size=4)),)


def added(accumulated: Callable[[Array | None, Array], Array], given: list[Array]) -> dict[str, Any]:
    """Return the gradient after each part, and for two and more parts in which memory it is."""
    sums: list[Any] = [None]
    for part in given:
        sums.append(accumulated(sums[-1], part))
    olds = [{"grad": sums[i], "part": part} for i, part in enumerate(given)]
    made = [[name for name, x in old.items() if np.shares_memory(sums[i], x)] for i, old in enumerate(olds[1:], 2)]
    return {"the gradients": sums[1:], "the memory of each sum": [" ".join(names) or "new" for names in made]}
