"""a part of zeros returns the old array, and no new one."""

from minitrain.backend import xp


def accumulated(grad, part):
    if grad is None:
        return part
    return xp.asarray(grad + part) if part.any() else grad
