"""first the nodes are found, then the uses are counted; the error is of a class of its own."""

from collections import defaultdict, deque

from minitrain.autograd import Node, edge_of
from minitrain.tensor import Tensor


class FreedError(RuntimeError):
    pass


def youngest_first(roots):
    start = [edge_of(root) for root in roots]
    found = dict.fromkeys(edge for edge in start if isinstance(edge, Node))
    queue = deque(found)
    while queue:
        node = queue.popleft()
        if node.spent:
            raise FreedError
        for edge in node.edges:
            if isinstance(edge, Node) and edge not in found:
                found[edge] = None
                queue.append(edge)
    uses = defaultdict(int)
    for edge in start + [edge for node in found for edge in (*node.edges, *(leaf for leaf, _ in node.weights))]:
        if isinstance(edge, Tensor):
            uses[edge] += 1
    return sorted(found, key=lambda node: node.order, reverse=True), uses
