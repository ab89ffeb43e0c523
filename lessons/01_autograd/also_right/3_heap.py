"""a heap gives the youngest node of those that are known, so that nothing is sorted at the end."""

import heapq
from collections import Counter

from minitrain.autograd import edge_of
from minitrain.tensor import Tensor


def youngest_first(roots):
    heap, seen, nodes, consumers = [], set(), [], Counter()

    def meet(edge):
        if isinstance(edge, Tensor):
            consumers[edge] += 1
        elif edge is not None and edge.order not in seen:
            if edge.spent:
                raise RuntimeError("freed")
            seen.add(edge.order)
            heapq.heappush(heap, (-edge.order, edge))

    for root in roots:
        meet(edge_of(root))
    while heap:
        node = heapq.heappop(heap)[1]
        nodes.append(node)
        for edge in node.edges:
            meet(edge)
        for leaf, _ in node.weights:
            meet(leaf)
    return nodes, consumers
