"""the first part is kept, and later ones are lost."""

from minitrain.backend import Array


def accumulated(grad: Array | None, part: Array) -> Array:
    """Return a leaf's gradient after adding `part`. grad: the gradient so far, None at first.

    The sum is a new array of their shape and dtype (an ndarray even if 0-d): other code may still hold the old ones
    and must not see them change.
    """
    return part if grad is None else grad
