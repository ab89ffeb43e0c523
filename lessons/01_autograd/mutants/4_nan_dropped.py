"""what is not finite is not added: an overflow must be seen."""

import numpy as np

from minitrain.backend import xp


def accumulated(grad, part):
    if grad is None:
        return part
    return xp.asarray(np.where(np.isfinite(part), grad + part, grad))
