"""counts a leaf once for each node, also where the node uses it twice."""

from collections.abc import Sequence

from minitrain.autograd import Node, edge_of
from minitrain.tensor import Tensor


def youngest_first(roots: Sequence[Tensor]) -> tuple[list[Node], dict[Tensor, int]]:
    """Return the nodes below the roots, each once, youngest first; and how often nodes and roots use each leaf."""
    nodes: set[Node] = set()
    uses: dict[Tensor, int] = {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop()
        if isinstance(edge, Tensor):
            uses[edge] = uses.get(edge, 0) + 1
        elif edge is not None and edge not in nodes:
            if edge.spent:
                raise RuntimeError("an earlier backward freed this part of the tape")
            nodes.add(edge)
            pending.extend({*edge.edges, *(leaf for leaf, _ in edge.weights)})
    return sorted(nodes, key=lambda node: node.order, reverse=True), uses
