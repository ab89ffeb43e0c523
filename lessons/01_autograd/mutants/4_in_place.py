"""added in place, into an array that somebody may still hold."""

from minitrain.backend import Array


def accumulated(grad: Array | None, part: Array) -> Array:
    """A leaf's gradient when one more part of it has come; grad is what there was before, None at first.

    A new array (an ndarray even without axes): somebody may still hold the old one, and must not see it change.
    """
    if grad is None:
        return part
    grad += part
    return grad
