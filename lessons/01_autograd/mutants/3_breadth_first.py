"""the nodes are in levels below the roots: a node that is used both early and late comes too soon."""

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    found, consumers = {}, {}
    pending = [edge_of(root) for root in roots]
    while pending:
        edge = pending.pop(0)
        if isinstance(edge, Tensor):
            consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None and edge not in found:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found[edge] = None
            pending.extend(edge.edges)
            pending.extend(leaf for leaf, _ in edge.weights)
    return list(found), consumers
