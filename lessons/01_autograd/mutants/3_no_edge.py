"""the edge of a root that requires no gradient is None, which is treated as a node."""

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    found, consumers = set(), {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop()
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge not in found:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found.add(edge)
            pending.extend(e for e in edge.edges if e is not None)
            pending.extend(leaf for leaf, _ in edge.weights)
    return sorted(found, key=lambda node: -node.order), consumers
