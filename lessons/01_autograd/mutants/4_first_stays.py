"""the first part stays, and later ones are lost."""

from minitrain.backend import Array


def accumulated(grad: Array | None, part: Array) -> Array:
    """A leaf's gradient when one more part of it has come; grad is what there was before, None at first.

    A new array (an ndarray even without axes): somebody may still hold the old one, and must not see it change.
    """
    return part if grad is None else grad
