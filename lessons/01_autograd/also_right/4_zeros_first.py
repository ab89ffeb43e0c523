"""Starts from zeros, copies what is there, and adds in place into its own copy."""

from minitrain.backend import Array, xp


def accumulated(grad: Array | None, part: Array) -> Array:
    """Return a leaf's gradient after adding `part`. grad: the gradient so far, None at first."""
    fresh = xp.zeros_like(part) if grad is None else xp.array(grad)
    fresh += part
    return fresh
