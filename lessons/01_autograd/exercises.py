"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "01.1",
        "I",
        "minitrain.functional:matmul",
        hints=(
            "operands(a, b) makes tensors of one dtype of both; their arrays are a.data and b.data. "
            "apply(y, (a, b), vjp, saved=(a, b)) puts the result on the tape; vjp(g) returns the gradients of both.",
            "ga has the shape of a: only g times b transposed fits. Transpose the last two axes and no others: "
            ".swapaxes(-1, -2). Multiply with backend.matmul, which counts.",
            "ga = g b^T and gb = a^T g still have all leading axes of the result. "
            "unbroadcast_both(ga, gb, a.shape, b.shape) adds up over those that an operand does not have.",
        ),
    ),
    Exercise(
        "01.2",
        "I",
        "minitrain.functional:unbroadcast",
        hints=(
            "Broadcasting writes the shapes under each other from the right. Which axes of g did x not have, and which "
            "had length 1 in x and are longer in g?",
            "The first g.ndim - len(shape) axes were added in front. Axis i of `shape` is axis "
            "i + (g.ndim - len(shape)) of g. Over all of these the parts are added up.",
            "backend.total(g, axis=added + stretched, keepdims=True).reshape(shape), with two tuples of axes. It adds "
            "half precision up in float32.",
        ),
    ),
    Exercise(
        "01.3",
        "I",
        "minitrain.autograd:youngest_first",
        hints=(
            "Keep a list of edges that are still to be looked at. It begins with edge_of(root) for every root. An edge "
            "is a node, a leaf (a Tensor), or None.",
            "A leaf is counted each time it comes up. A node is looked into only the first time: its edges, and the "
            "leaf of each pair in its weights, go to the list. Remember nodes in a set.",
            "At the end: sorted(found, key=lambda node: -node.order). A node that is `spent`, which an earlier "
            "backward has freed, must raise RuntimeError.",
        ),
    ),
    Exercise(
        "01.4",
        "B",
        "minitrain.tensor:accumulated",
        planted="4_as_given.py",
        hints=(
            "Follow x * x at 3 by hand: both operands are x, so two parts come. What is left after the second one?",
            "The chain rule adds up over all uses. But += writes into the array that is there already, and somebody "
            "may still hold it.",
            "grad + part is a new array, except that NumPy makes a plain number of two arrays without axes: "
            "xp.asarray(grad + part).",
        ),
    ),
)
