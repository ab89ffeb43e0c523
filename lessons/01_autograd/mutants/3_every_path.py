"""visited nodes are not remembered: each is listed once for every path to it."""

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    found, consumers = [], {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop()
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found.append(edge)
            pending.extend(edge.edges)
            pending.extend(leaf for leaf, _ in edge.weights)
    return sorted(found, key=lambda node: -node.order), consumers
