"""A tape, the chain rule backwards, and how precisely a derivative can be checked.

python lessons/01_autograd/lesson.py [--figure FILE.svg]
"""

# %% What we need
import argparse
from collections import Counter
from importlib import import_module
from typing import Any

import minitrain  # isort: skip  # noqa: F401 (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.autograd import Edge, Node, youngest_first
from minitrain.backend import Array
from minitrain.lessons.charts import INK, chart, figure
from minitrain.lessons.receipt import Receipt
from minitrain.tensor import Tensor

derivatives = import_module("minitrain.lessons.course.01_autograd.derivatives")  # derivatives.py, next to this file
STEPS = "h = 2^-k: 1 at the left, 3.6e-15 at the right; k ="  # float64; float32 ends at k = 22


# %% The tape of an expression, and the gradients that travel along it
def watched_backward(root: Tensor) -> list[tuple[Node, Array, list[tuple[Edge, Array]]]]:
    """Run backward. Return for each visit the node, the gradient that had arrived, and what each edge got."""
    visits = []
    for node in youngest_first([root])[0]:

        def vjp(g: Array, node: Node = node, vjp: Any = node.vjp, edges: tuple = node.edges) -> tuple[Array, ...]:
            parts = vjp(g)
            visits.append((node, g, list(zip(edges, parts, strict=True))))
            return parts

        node.vjp = vjp
    root.backward()
    return visits


def tape(root: Tensor, leaves: dict[str, Tensor]) -> str:
    """Show a row for each node, youngest first, and a column for each gradient: "+" a part, "=" the sum."""
    nodes, _ = youngest_first([root])
    names: dict[Any, str] = {node: f"[{len(nodes) - i}]" for i, node in enumerate(nodes)}
    names |= {x: name for name, x in leaves.items()}
    made = {node: f"{names[node]} {node.operation} {' '.join(names[edge] for edge in node.edges)}" for node in nodes}
    rows = [("gradient of", names)]
    for node, g, parts in watched_backward(root):
        rows.append((made[node], {node: f"= {g:g}"} | {edge: f"+ {part:g}" for edge, part in parts}))
    rows.append(("leaves", {x: f"= {x.grad:g}" for x in leaves.values()}))
    lines = [f"{head:<20}" + "".join(f"{row.get(x, ''):>8}" for x in names) for head, row in rows]
    return "\n".join(line.rstrip() for line in lines)


# %% Diamonds: two paths leave a number and meet again, many times in a row
def diamonds(n: int) -> tuple[Tensor, Tensor]:
    """Return x, and y = (-2)^n x."""
    x = y = Tensor(1.0, requires_grad=True)
    for _ in range(n):
        y = -y + -y
    return x, y


def recursion(edge: Edge, g: Array) -> int:
    """Follow the chain rule along every path. Return the number of nodes visited."""
    if not isinstance(edge, Node) or edge.vjp is None:
        return 0
    return 1 + sum(recursion(below, part) for below, part in zip(edge.edges, edge.vjp(g), strict=True))


def recursive_visits(root: Tensor) -> int:
    """Return what `recursion` would return, without running it: a node counts once for every path to it."""
    paths: Counter[Any] = Counter({root.node: 1})
    nodes, _ = youngest_first([root])
    for node in nodes:
        for edge in node.edges:
            paths[edge] += paths[node]
    return sum(paths[node] for node in nodes)


# %% The experiment
def walk_diamonds(receipt: Receipt) -> None:
    """Count the visits of the recursion and of backward."""
    x, L = diamonds(10)
    receipt.equal("10 diamonds: visits of a recursion", 3 * (2**10 - 1), recursion(L.node, np.ones(())))
    x, L = diamonds(20)
    receipt.equal("20 diamonds: visits it would make", 3 * (2**20 - 1), recursive_visits(L))
    visits = watched_backward(L)
    receipt.equal("20 diamonds: visits of backward", 3 * 20, len(visits))
    receipt.equal("20 diamonds: distinct nodes visited", 3 * 20, len({node for node, *_ in visits}))
    receipt.equal("20 diamonds: dL/dx = (-2)^20", 2**20, int(np.asarray(x.grad)))


def check_derivatives(receipt: Receipt) -> dict[str, tuple]:
    """Check the gradients of all operations, and how precise such a check is. Return the error curves."""
    checked = [derivatives.gradient_check(*row) for row in derivatives.OPERATIONS]
    names = {name for name, _ in checked}
    receipt.below(f"gradient check of {len(names)} operations", 1e-7, max(error for _, error in checked))
    receipt.equal("operations without a gradient check", 0, len(derivatives.names() - names))
    curves = {"float64": derivatives.errors(np.float64, 49), "float32": derivatives.errors(np.float32, 23)}
    shown = {name: measured for name, (_, measured, _) in curves.items()}
    print("\n" + chart(shown, "error of the difference", STEPS, width=49, height=10, log=True))
    for name, (hs, measured, theory) in curves.items():
        ratios = [m / t for m, t in zip(measured, theory, strict=True)]
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        receipt.true(f"error / bound at every h, {name}", 0.1 < min(ratios) <= max(ratios) < 1.01, "0.1 to 1", span)
        (h, lowest), best = derivatives.best_step(name), hs[int(np.argmin(measured))]
        receipt.true(f"best h, to a factor of 4, {name}", h / 4 < best < h * 4, f"{h:.1e}", f"≈ {best:.1e}")
        receipt.below(f"error at the best h, {name}", lowest, min(measured))
    return curves


# %% The picture
def draw(curves: dict[str, tuple], path: str) -> None:
    """Draw, left, the errors and the bound as lines; right, the visits of both walks through a row of diamonds."""
    n, ends = range(1, 21), [diamonds(k)[1] for k in range(1, 21)]
    with figure(path, columns=2) as (left, right):
        for marker, (name, (hs, measured, theory)) in zip("os", curves.items(), strict=True):
            left.loglog(hs, measured, marker, markersize=3, label=name)
            bound = "bound of each" if name == list(curves)[-1] else None
            left.loglog(hs, theory, "-", color=INK, linewidth=0.7, zorder=0, label=bound)
        right.semilogy(n, [recursive_visits(end) for end in ends], "o", markersize=3, label="a recursion")
        right.semilogy(n, [len(watched_backward(end)) for end in ends], "s", markersize=3, label="backward")
        left.set(xlabel="step h of the difference, smaller to the right", ylabel="error of the difference")
        left.set_ylim(1e-14, 10)  # below the curves is room for the legend
        left.invert_xaxis()
        right.set(xlabel="diamonds", ylabel="visits of nodes", xticks=range(0, 21, 5))
        left.legend(loc="lower left")
        right.legend()


# %% The run
def run(options: argparse.Namespace) -> None:
    """Show the tape of an example, count visits, and check derivatives."""
    receipt = Receipt()
    print("L = (a + x) a with a = x y, x = 2, y = 3. Parts of a gradient: +, their sum: =\n")
    x, y = Tensor(2.0, requires_grad=True), Tensor(3.0, requires_grad=True)
    a = x * y
    print(tape((a + x) * a, {"x": x, "y": y}))
    receipt.equal("dL/dx and dL/dy as by hand", (48.0, 28.0), (np.asarray(x.grad).item(), np.asarray(y.grad).item()))
    walk_diamonds(receipt)
    curves = check_derivatives(receipt)
    if options.figure:
        draw(curves, options.figure)
    receipt.print()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="also draw the picture, into this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    run(arguments())


if __name__ == "__main__":
    main()
