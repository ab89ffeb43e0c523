"""all sums of one shape share their memory, so an earlier sum changes."""

from minitrain.backend import xp

SUMS = {}


def accumulated(grad, part):
    if grad is None:
        return part
    out = SUMS.setdefault((part.shape, part.dtype), xp.empty_like(part))
    out[...] = grad + part
    return out
