"""the nodes are oldest first, the order of the forward."""

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    found, consumers = set(), {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop()
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None and edge not in found:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found.add(edge)
            pending.extend(edge.edges)
            pending.extend(leaf for leaf, _ in edge.weights)
    return sorted(found, key=lambda node: node.order), consumers
