"""the new part takes the place of what was there, instead of being added to it."""

from minitrain.backend import Array, xp


def accumulated(grad: Array | None, part: Array) -> Array:
    """A leaf's gradient when one more part of it has come; grad is what there was before, None at first.

    A new array (an ndarray even without axes): somebody may still hold the old one, and must not see it change.
    """
    if grad is None:
        grad = xp.zeros_like(part)
    grad = part
    return grad
