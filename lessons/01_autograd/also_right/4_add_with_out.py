"""np.add writes the sum into a fresh array; the first part is copied."""

from minitrain.backend import Array, xp


def accumulated(grad: Array | None, part: Array) -> Array:
    """Return a leaf's gradient after adding `part`. grad: the gradient so far, None at first."""
    fresh = xp.empty_like(part)
    if grad is None:
        fresh[...] = part
    else:
        xp.add(grad, part, out=fresh)
    return fresh
