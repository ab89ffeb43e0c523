"""nodes are listed once, but every path to them is followed: 2^n steps for n diamonds."""

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    found, consumers, parents = set(), {}, set()
    pending = [(None, edge_of(root), i) for i, root in enumerate(roots)]
    while pending:
        user, edge, place = pending.pop()
        if isinstance(edge, Tensor):
            if (user, place) not in parents:
                parents.add((user, place))
                consumers[edge] = consumers.get(edge, 0) + 1
        elif edge is not None:
            if edge.spent:
                raise RuntimeError("this part of the tape was freed by an earlier backward")
            found.add(edge)
            below = (*edge.edges, *(leaf for leaf, _ in edge.weights))
            pending.extend((edge, x, i) for i, x in enumerate(below))
    return sorted(found, key=lambda node: -node.order), consumers
