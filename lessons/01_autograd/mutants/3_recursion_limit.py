"""the function calls itself, with a raised recursion limit: a long chain takes all memory."""

import sys

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor

SAYS = "calls itself"

sys.setrecursionlimit(10**6)


def youngest_first(roots):
    found, consumers = set(), {}

    def visit(edge):
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None and edge not in found:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found.add(edge)
            for below in (*edge.edges, *(leaf for leaf, _ in edge.weights)):
                visit(below)

    for root in roots:
        visit(edge_of(root))
    return sorted(found, key=lambda node: -node.order), consumers
