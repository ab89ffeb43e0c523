"""Checks of this lesson's exercises: finite differences, sums over copies, and visit counts."""

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minitrain import functional as F
from minitrain import fused
from minitrain.autograd import Edge, Node, apply, backward, youngest_first
from minitrain.backend import FLOATS, Array
from minitrain.comm.communicator import Communicator
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees
from minitrain.lessons.worker import explain
from minitrain.observe.ledger import Ledger
from minitrain.tensor import Tensor, WeightVjp, accumulated

from .derivatives import differences
from .drawn import added, broadcasts, graphs, multiplied, parts, products, summed, walked
from .lesson import diamonds

Shape = tuple[int, ...]
RAISED = object()
REFERENCE: dict[str, Callable] = {
    "matmul": F.matmul,
    "unbroadcast": F.unbroadcast,
    "youngest_first": youngest_first,
    "accumulated": accumulated,
}


def attempt(
    report: Report, name: str, about: str, function: Callable, *arguments: Any, mine: Callable | None = None
) -> Any:
    """Return function(*arguments). If it raises, record a failed claim and return RAISED.

    mine: the student's function, whose file is searched for the failing line, if it is not `function` itself.
    """
    try:
        return function(*arguments)
    except Exception as error:
        told = explain(error, file_of(mine or function))
        report.true(name, False, f"{about}: {told}", type(error).__name__)
        return RAISED


def file_of(function: Callable) -> Path:
    """Return the file that defines the function."""
    code = getattr(function, "__code__", None)
    return Path(code.co_filename if code else "")


def draw(*shapes: Shape, dtype: Any = np.float64) -> list[Array]:
    """Return random integers in this dtype, so that sums are exact in any order."""
    random = np.random.default_rng(1)
    return [random.integers(-9, 10, shape).astype(dtype) for shape in shapes]


def leaves_of(arrays: Sequence[Array]) -> list[Tensor]:
    """Return tensors with the same values that require gradients."""
    return [Tensor(x.copy(), requires_grad=True) for x in arrays]


def value_of(array: Any) -> Any:
    """Convert an array to plain numbers; None stays None."""
    return None if array is None else np.asarray(array).tolist()


# 01.1 -----------------------------------------------------------------------------------------------------------------

PRODUCTS: list[tuple[Shape, Shape]] = [
    ((3, 3), (3, 3)),
    ((2, 3), (3, 5)),
    ((4, 2, 3), (4, 3, 5)),
    ((4, 2, 3), (3, 5)),
    ((2, 3), (4, 3, 5)),
    ((4, 1, 2, 3), (1, 7, 3, 5)),
]


def check_01_1(world: Communicator, matmul: Callable[[Any, Any], Tensor], report: Report) -> None:
    """Check values, gradients, dtypes and errors; count multiplications and memory with the ledger."""
    for shapes in PRODUCTS:
        a_product(matmul, shapes, report)
    for name in ("float32", "float16"):
        dtypes_stay(matmul, name, report)
    for error, about, a, b in (
        (ValueError, "a vector, which has one axis only", np.ones(3), np.ones((3, 2))),
        (TypeError, "float32 times float64", np.ones((2, 2), np.float32), np.ones((2, 2))),
        (ValueError, "(2, 3) times (2, 3)", np.ones((2, 3)), np.ones((2, 3))),
        (ValueError, "(2, 1, 1) times (3, 1, 1)", np.ones((2, 1, 1)), np.ones((3, 1, 1))),
    ):
        refused = raises(error, matmul, Tensor(a), Tensor(b))
        report.true(f"refuses {about}", refused, f"{about} must raise {error.__name__}")
    what_it_costs(matmul, report)
    half_adds_up(matmul, report)
    if report.ok:
        nothing_else_is_kept(matmul, report)
    if report.ok:
        name = "matmul and backward, for a, b, the gradient of y, and what a and b are: "
        agrees(report, matmul, REFERENCE["matmul"], products(), name=name, run=multiplied)


def half_adds_up(matmul: Callable[[Any, Any], Tensor], report: Report) -> None:
    """Check that a broadcast operand's parts are not summed in float16."""
    a, b = leaves_of([np.ones((4096, 1, 1), np.float16), np.ones((1, 2), np.float16)])
    backward = lambda: matmul(a, b).backward(np.ones((4096, 1, 2), np.float16))
    if attempt(report, "raised half", "(4096, 1, 1) times (1, 2) in float16", backward, mine=matmul) is not RAISED:
        told = "4096 ones (1, 1) times (1, 2) in float16: the gradient of b is {got}, not {expected}; sum in float32"
        report.equal("half", value_of(b.grad), [[4096.0] * 2], told)


def nothing_else_is_kept(matmul: Callable[[Any, Any], Tensor], report: Report) -> None:
    """Check that what stays alive after the forward is the result alone; the operands were there before."""
    a, b = leaves_of(draw((200, 200), (200, 200)))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = matmul(a, b)
    new = tracemalloc.get_traced_memory()[0] - before - y.data.nbytes
    tracemalloc.stop()
    told = f"(200, 200) times (200, 200): {new:,} bytes stay in memory besides a, b and y; backward needs only a and b"
    report.true("kept", new < a.data.nbytes / 2, told)


def dtypes_stay(matmul: Callable[[Any, Any], Tensor], name: str, report: Report) -> None:
    """Check that the result and both gradients have the operands' dtype."""
    about = f"operands of {name}"
    y = attempt(report, f"raised {about}", about, matmul, *leaves_of(draw((2, 3), (3, 5), dtype=name)))
    if isinstance(y, Tensor) and y.node is not None:
        g = np.ones(y.shape, name)
        vjp: Any = y.node.vjp
        parts = attempt(report, f"raised {about}, backward", f"{about}, backward", lambda: tuple(vjp(g)), mine=matmul)
        if parts is not RAISED:
            kinds = [str(getattr(array, "dtype", type(array).__name__)) for array in (y, *parts)]
            told = f"{about}: the result is {kinds[0]}, the gradients are {' and '.join(kinds[1:]) or 'missing'}"
            report.true(f"dtype {name}", kinds == [name] * 3, told, str(kinds))


def what_it_costs(matmul: Callable[[Any, Any], Tensor], report: Report) -> None:
    """Check the number of multiplications and the memory that backward keeps alive."""
    about = "(2, 3) times (3, 5)"
    with Ledger().open() as ledger:
        leaves = leaves_of(draw((2, 3), (3, 5)))
        y = attempt(report, "raised", about, matmul, *leaves)
        kept = ledger.live["activations"]
        if isinstance(y, Tensor):
            attempt(report, "raised backward", f"{about}, backward", y.backward, np.ones((2, 5)), mine=matmul)
    named = "backward needs a and b, {expected} bytes; `saved` names {got} bytes, so the ledger misses them"
    report.equal("saved", kept, 8 * (2 * 3 + 3 * 5), named)
    counted = (
        "y, ga and gb take 2 x 3 x 5 multiplications each, and as many additions: {expected} FLOPs; the ledger counted "
        "{got}: use backend.matmul"
    )
    report.equal("flops", ledger.flops, 3 * 2 * 2 * 3 * 5, counted)


def a_product(matmul: Callable[[Any, Any], Tensor], shapes: tuple[Shape, Shape], report: Report) -> None:
    """Check one product and its gradients against NumPy and differences. (A product is linear: any step is exact.)"""
    about = f"{shapes[0]} times {shapes[1]}"
    arrays = draw(*shapes)
    leaves = leaves_of(arrays)
    y = attempt(report, f"raised {about}", about, matmul, *leaves)
    told = f"{about} must return a Tensor, not {type(y).__name__}"
    if y is RAISED or not report.true(f"tensor {about}", isinstance(y, Tensor), told):
        return
    expected = np.matmul(*arrays)
    if not report.equal(f"shape {about}", y.shape, expected.shape, f"{about}: the shape is {{got}}, not {{expected}}"):
        return
    report.close(f"value {about}", float(np.abs(y.data - expected).max()), 1e-12, f"{about}: the product is wrong")
    (g,) = draw(y.shape)
    attempt(report, f"raised backward {about}", f"{about}, backward", y.backward, g, mine=matmul)
    for name, leaf, x in zip("ab", leaves, arrays, strict=True):
        shape = None if leaf.grad is None else leaf.grad.shape
        told = f"{about}: the gradient of {name} has shape {{got}}, but {name} has shape {{expected}}"
        if report.equal(f"shape of g{name} {about}", shape, x.shape, told):
            slopes = differences(lambda: float((g * np.matmul(*arrays)).sum()), x, 0.5)
            gap = float(np.abs(leaf.grad - slopes).max())
            report.close(f"g{name} {about}", gap, 1e-7, f"{about}: the gradient of {name} does not match differences")


def raises(error: type[Exception], function: Callable, *arguments: Any) -> bool:
    """Return whether the call raises exactly this error."""
    try:
        function(*arguments)
    except Exception as raised:
        return type(raised) is error
    return False


# 01.2 -----------------------------------------------------------------------------------------------------------------

BROADCASTS: list[tuple[Shape, Shape]] = [  # x's shape, the result's shape
    ((2, 3), (2, 3)),
    ((3,), (3, 3)),
    ((2, 3), (4, 2, 3)),
    ((2, 1), (2, 3)),
    ((1, 3), (2, 3)),
    ((2, 1), (4, 2, 3)),
    ((4, 1, 2), (4, 7, 2)),
    ((), (2, 3)),
    ((1,), (5, 1)),
    ((3,), (0, 3)),
]


def check_01_2(world: Communicator, unbroadcast: Callable[[Array, Shape], Array], report: Report) -> None:
    """Check against sums made copy by copy, in half precision, and inside the tape."""
    for shape, wide in BROADCASTS:
        (g,) = draw(wide)
        about = f"x of shape {shape} that was broadcast to {wide}"
        gx = attempt(report, f"raised {shape} {wide}", about, unbroadcast, g.copy(), shape)
        if gx is RAISED:
            continue
        told = f"{about}: the gradient has shape {{got}}, not {{expected}}"
        if report.equal(f"shape {shape} {wide}", getattr(gx, "shape", None), shape, told):
            expected = sums_over_copies(g, shape)
            told = f"{about}: the sum over the copies is {expected.tolist()}, not {value_of(gx)}"
            report.true(f"sum {shape} {wide}", np.array_equal(gx, expected), told, value_of(gx))
    for dtype in FLOATS[:2]:
        gx = attempt(report, f"raised {dtype}", str(dtype), unbroadcast, np.ones((4096, 2), dtype), (2,))
        if gx is not RAISED:
            told = "g is {expected}, but the gradient is {got}"
            report.equal(f"dtype {dtype}", str(getattr(gx, "dtype", None)), str(dtype), told)
            told = f"two columns of 4096 ones in {dtype} add up to {{got}}, not {{expected}}: "
            told += "use backend.total, which sums in float32"
            report.equal(f"half {dtype}", value_of(gx), [4096.0] * 2, told)
    a_broadcast_product(unbroadcast, report)
    if report.ok:
        agrees(report, unbroadcast, REFERENCE["unbroadcast"], broadcasts(), run=summed)


def a_broadcast_product(unbroadcast: Callable[[Array, Shape], Array], report: Report) -> None:
    """Check sum(a b) with both operands broadcast."""

    def times(a: Tensor, b: Tensor) -> Tensor:
        vjp = lambda g: (unbroadcast(g * b.data, a.shape), unbroadcast(g * a.data, b.shape))
        return apply(a.data * b.data, (a, b), vjp)

    arrays = draw((2, 1, 3), (4, 1))
    a, b = leaves_of(arrays)
    total = lambda: F.sum(times(a, b)).backward()
    attempt(report, "raised tape", "a (2, 1, 3) times b (4, 1)", total, mine=unbroadcast)
    for name, leaf, x in (("a", a, arrays[0]), ("b", b, arrays[1])):
        slopes = differences(lambda: float((arrays[0] * arrays[1]).sum()), x, 0.5)
        same = leaf.grad is not None and np.array_equal(leaf.grad, slopes)
        report.true(f"tape {name}", same, f"sum(a b), a (2, 1, 3), b (4, 1): the gradient of {name} is wrong")


def sums_over_copies(g: Array, shape: Shape) -> Array:
    """Add each element of g to the element of x that it is a copy of."""
    x = np.zeros(shape)
    origin = np.broadcast_to(np.arange(x.size).reshape(shape), g.shape)
    np.add.at(x.reshape(-1), origin.reshape(-1), g.reshape(-1))
    return x


# 01.3 -----------------------------------------------------------------------------------------------------------------

Order = Callable[[Sequence[Tensor]], tuple[list[Node], dict[Tensor, int]]]
LONG, CHAIN = 100_000, 50
Graph = tuple[list[Tensor], dict[Tensor, str]]  # the roots; the leaves and their names


def small_graphs() -> dict[str, Graph]:
    """Return graphs that expose a wrong order, a wrong count or a forgotten root."""
    x, y, w = (Tensor(np.array([[v]]), requires_grad=True) for v in (2.0, 3.0, 5.0))
    a, late = x * y, F.exp(x)
    far = late
    for _ in range(3):
        far = far * 2.0
    shared = x * x
    return {
        "(a + x) a with a = x y": ([(a + x) * a], {x: "x", y: "y"}),
        "e^x, used early and late": ([far + late], {x: "x"}),
        "w as a parameter and in a product": ([fused.linear(x, w) + w * w], {x: "x", w: "w"}),
        "three roots, one above another": ([F.exp(shared), shared * 3.0, shared], {x: "x"}),
        "a leaf as a root": ([x, x * 2.0], {x: "x"}),
    }


def check_01_3(world: Communicator, youngest_first: Order, report: Report) -> None:
    """Check small graphs inside the real backward, diamonds, a long chain and a freed tape."""
    fine = [a_small_graph(name, youngest_first, report) for name in small_graphs()]
    if all(fine) and few_questions(youngest_first, report) and calls_stay_flat(youngest_first, report):
        twenty_diamonds(youngest_first, report)
        found = attempt(report, "long", f"a chain of {LONG:,} operations", youngest_first, [long_chain(LONG)])
        if found is not RAISED:
            report.equal("long chain", len(found[0]), LONG, "of a chain of {expected:,} operations, {got:,} were found")
    x = Tensor(1.0, requires_grad=True)
    y = F.exp(x)
    other = y * 3.0
    (y * 2.0).backward()
    try:
        youngest_first([other])
        raised, said = None, "nothing was raised"
    except Exception as error:
        raised, said = error, explain(error, file_of(youngest_first))
    told = f"an earlier backward freed part of this tape (`spent`), so RuntimeError must be raised; {said}"
    report.true("freed", isinstance(raised, RuntimeError), told, type(raised).__name__)
    if report.ok:
        name = "youngest_first, for the nodes {1: (operands, weights), ...}, the roots, and spent nodes: "
        agrees(report, youngest_first, REFERENCE["youngest_first"], graphs(), name=name, run=walked)


def twenty_diamonds(order: Order, report: Report) -> None:
    """Check 60 nodes with 2^20 paths inside the real backward."""
    x, y = diamonds(20)
    calls: list[Node] = []
    for node in youngest_first([y])[0]:

        def counted(g: Array, node: Node = node, vjp: Any = node.vjp) -> tuple[Array, ...]:
            calls.append(node)
            return vjp(g)

        node.vjp = counted
    attempt(report, "raised diamonds", "20 diamonds", lambda: backward([y], order=order), mine=order)
    report.equal("visits", len(calls), 60, "20 diamonds: backward visited {got} nodes; there are {expected}")
    report.equal("gradient", value_of(x.grad), 2.0**20, "20 diamonds: the gradient is {got}, not {expected}")


def long_chain(n: int) -> Tensor:
    """Return the last of n operations in a row. (Bare nodes: the check must finish within three seconds.)"""
    edge: Any = Tensor(1.0, requires_grad=True)
    for _ in range(n):
        edge = Node((edge,), _same, (), ())
    y = Tensor(1.0, requires_grad=True)
    y.node = edge
    return y


def a_small_graph(name: str, order: Order, report: Report) -> bool:
    """Check the list and the counts, then the real backward with them. Return whether all claims hold."""
    roots, leaves = small_graphs()[name]
    expected, uses = youngest_first(roots)
    given = list(roots)
    found = attempt(report, f"raised {name}", name, order, given)
    told = f"{name}: your function changes the caller's list of roots: {len(given)} of {len(roots)} are left"
    if not report.true(f"roots {name}", given == roots, told, len(given)):
        return False
    kind = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list) and isinstance(found[1], dict)
    if found is RAISED or not report.true(f"kind {name}", kind, f"{name}: return a list and a dict, not {found!r}"):
        return False
    nodes, consumers = found
    before = len(report.signature)
    called = {node: f"[{len(expected) - i}] {node.operation}" for i, node in enumerate(expected)}
    shown, want = (", ".join(called.get(node, repr(node)) for node in some) or "none" for some in (nodes, expected))
    told, once = f"{name}: the nodes are {shown}; ", len(set(nodes)) == len(nodes)
    report.true(f"once {name}", once, told + "one of them is listed more than once", shown)
    report.true(f"all {name}", set(nodes) == set(expected), told + f"they should be {want}", shown)
    if set(nodes) == set(expected) and once:
        report.true(f"order {name}", nodes == expected, told + f"youngest first, they are {want}", shown)
    counts = {leaves.get(leaf, "?"): n for leaf, n in consumers.items()}
    right = {leaves[leaf]: n for leaf, n in uses.items()}
    report.equal(f"uses {name}", counts, right, f"{name}: the uses of the leaves are {{expected}}, not {{got}}")
    if len(report.signature) == before:
        runs_backward(name, order, report)
    return len(report.signature) == before


def runs_backward(name: str, order: Order, report: Report) -> None:
    """Check the gradients of the real backward with this order, and how often each leaf is reported complete."""
    results = []
    for chosen in (order, youngest_first):
        roots, leaves = small_graphs()[name]
        fired: list[str] = []
        for leaf, called in leaves.items():
            leaf.on_ready = lambda _, called=called, fired=fired: fired.append(called)
        attempt(report, f"backward {name}", name, lambda r=roots, o=chosen: backward(r, order=o), mine=order)
        results.append(({called: value_of(leaf.grad) for leaf, called in leaves.items()}, fired))
    (mine, mine_fired), (true, true_fired) = results
    report.equal(f"gradients {name}", mine, true, f"{name}: the gradients are {{got}}, not {{expected}}")
    told = f"{name}: the leaves are reported complete in the order {{got}}, not {{expected}}"
    report.equal(f"ready {name}", mine_fired, true_fired, told)


def few_questions(order: Order, report: Report) -> bool:
    """Check that no node is queried or compared often in 12 diamonds: 36 nodes with 12,285 paths."""
    _, y = diamonds(12)
    asked, compared = watched(y)
    attempt(report, "raised questions", "12 diamonds", order, [y])
    told = f"12 diamonds have 36 nodes, but their operands were read {len(asked):,} times: you follow every path"
    few = report.true("questions", len(asked) <= 4 * 36, told, len(asked))
    told = f"36 nodes were compared {sum(compared):,} times: you search a list for each; use a set or a dict"
    return report.true("searches", sum(compared) <= 4 * 36, told) and few


def calls_stay_flat(order: Order, report: Report) -> bool:
    """Check that operands are looked up at the same depth of calls all along a chain, whatever limit Python has."""
    root = long_chain(CHAIN)
    depths, _ = watched(root)
    attempt(report, "raised chain", f"a chain of {CHAIN} operations", order, [root])
    deep = max(depths) - min(depths) if depths else 0
    told = (
        f"on a chain of {CHAIN} operations your function calls itself, {deep} calls deep: a chain of a million would "
        "overflow the stack or take all memory; loop over a list of the edges still to visit"
    )
    return report.true("depth", deep < CHAIN / 2, told)


def watched(root: Tensor) -> tuple[list[int], list[bool]]:
    """Return two lists that fill: the depths of the calls that ask a node for its operands; the comparisons."""
    depths: list[int] = []
    compared: list[bool] = []
    slot = vars(Node)["edges"]

    class Watched(Node):
        __slots__ = ()

        @property
        def edges(self) -> tuple[Edge, ...]:  # type: ignore[override]
            frame, depth = sys._getframe(), 0
            while frame := frame.f_back:  # type: ignore[assignment]
                depth += 1
            depths.append(depth)
            return slot.__get__(self)

        def __eq__(self, other: object) -> bool:  # a list compares every element; a set only those with the same hash
            compared.append(isinstance(other, Node))
            return self is other

        __hash__ = Node.__hash__

    for node in youngest_first([root])[0]:
        node.__class__ = Watched
    return depths, compared


def _same(g: Array) -> tuple[Array]:
    return (g,)


# 01.4 -----------------------------------------------------------------------------------------------------------------


def check_01_4(world: Communicator, accumulated: Callable[[Array | None, Array], Array], report: Report) -> None:
    """Check leaves used several times, in one backward and in two."""

    class Leaf(Tensor):
        __slots__ = ()

        def accumulate(self, vjp: WeightVjp, g: Array) -> None:
            self.grad = accumulated(self.grad, vjp(g))

    several_uses(Leaf, report)
    two_backwards(Leaf, report)
    x = Leaf(np.array(3.0, np.float32), requires_grad=True)
    (x * x).backward()
    kind = f"{type(x.grad).__name__} of {getattr(x.grad, 'dtype', None)}"
    told = "for two float32 ndarrays without axes, you return a {got}, not an {expected} (use xp.asarray)"
    report.equal("kind", kind, "ndarray of float32", told)
    if report.ok:
        name = "grad = accumulated(grad, part), from None, for one part after another of "
        agrees(report, accumulated, REFERENCE["accumulated"], parts(), name=name, run=added)


def several_uses(leaf: type[Tensor], report: Report) -> None:
    """Check several uses in one backward."""
    x = leaf([3.0], requires_grad=True)
    (x * x).backward()
    report.equal("x x", value_of(x.grad), [6.0], "d(x x)/dx at 3: your function gives {got}, not {expected}")
    x = leaf([2.0], requires_grad=True)
    (x * x * x).backward()
    report.equal("x x x", value_of(x.grad), [12.0], "d(x x x)/dx at 2: your function gives {got}, not {expected}")
    w = leaf([[5.0]], requires_grad=True)
    (fused.linear(Tensor([[2.0]]), w) + w * w).backward()
    told = "d(2 w + w w)/dw at 5, w as a parameter and in a product: your function gives {got}, not {expected}"
    report.equal("w", value_of(w.grad), [[12.0]], told)


def two_backwards(leaf: type[Tensor], report: Report) -> None:
    """Check that two backwards add up and leave the result of the first unchanged."""
    x = leaf([1.0, 2.0], requires_grad=True)
    (x * 3.0).backward(np.ones(2))
    first = x.grad
    (x * 4.0).backward(np.ones(2))
    told = "backward of 3 x, then of 4 x: your function gives {got}, not {expected}"
    report.equal("two backwards", value_of(x.grad), [7.0, 7.0], told)
    told = "x.grad before the second backward was {expected}; that array is now {got}, but other code may still hold it"
    report.equal("old array", value_of(first), [3.0, 3.0], told)
