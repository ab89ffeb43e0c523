"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

LAST_PART = (
    "Follow x * x at 3 by hand: both operands are x, so two parts arrive. What is left after the second one?",
    "The chain rule adds the parts of all uses. But += writes into the existing array, which other code may "
    "still hold.",
    "grad + part is a new array, except that for two arrays without axes NumPy returns a scalar: "
    "xp.asarray(grad + part).",
)

EXERCISES = (
    Exercise(
        "01.1",
        "I",
        "minitrain.functional:matmul",
        together="it takes and returns tensors",
        hints=(
            "operands(a, b) returns both as tensors of one dtype; their arrays are a.data and b.data. "
            "apply(y, (a, b), vjp, saved=(a, b)) records the result on the tape; vjp(g) returns both gradients.",
            "ga has the shape of a: only g times b transposed fits. Transpose the last two axes and no others: "
            ".swapaxes(-1, -2). Multiply with backend.matmul, which counts the FLOPs.",
            "ga = g b^T and gb = a^T g still have all leading axes of the result. "
            "unbroadcast_both(ga, gb, a.shape, b.shape) sums over those that an operand does not have.",
        ),
    ),
    Exercise(
        "01.2",
        "I",
        "minitrain.functional:unbroadcast",
        hints=(
            "Broadcasting aligns the shapes from the right. Which axes of g did x not have, and which had length 1 in "
            "x and are longer in g?",
            "The first g.ndim - len(shape) axes were added in front. Axis i of `shape` is axis "
            "i + (g.ndim - len(shape)) of g. Sum over all added and stretched axes.",
            "backend.total(g, axis=added + stretched, keepdims=True).reshape(shape), with two tuples of axes. It sums "
            "half precision in float32.",
        ),
    ),
    Exercise(
        "01.3",
        "I",
        "minitrain.autograd:youngest_first",
        together="it takes and returns nodes of the tape",
        hints=(
            "Keep a list of the edges still to visit. It starts with edge_of(root) for every root. An edge is a node, "
            "a leaf (a Tensor), or None.",
            "Count a leaf each time it comes up. Expand a node only the first time: add its edges, and the leaf of "
            "each pair in its weights, to the list. Remember the nodes in a set.",
            "At the end: sorted(found, key=lambda node: -node.order). Raise RuntimeError for a node that is `spent`: "
            "an earlier backward has freed it.",
        ),
    ),
    Exercise(
        "01.4",
        "B",
        "minitrain.tensor:accumulated",
        planted="4_as_given.py",
        hints=LAST_PART,
        faults=(
            Fault("4_as_given.py", LAST_PART),
            Fault(
                "4_first_stays.py",
                (
                    "Follow x * x at 3 by hand: both operands are x, so two parts arrive. What is left after the "
                    "second?",
                    "The chain rule adds the parts of all uses. But += writes into the existing array, which other "
                    "code may still hold.",
                    "grad + part is a new array, except that for two arrays without axes NumPy returns a scalar: "
                    "xp.asarray(grad + part).",
                ),
            ),
            Fault(
                "4_in_place.py",
                (
                    "The numbers are right. Which array does the function write into, and who else may hold it?",
                    "The first part becomes the gradient itself, and the second is added to it. What does the caller "
                    "see in the first part then?",
                    "grad + part is a new array, except that for two arrays without axes NumPy returns a scalar: "
                    "xp.asarray(grad + part).",
                ),
            ),
        ),
    ),
)
