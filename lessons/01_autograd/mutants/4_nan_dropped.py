"""values that are not finite are not added: an overflow must stay visible."""

import numpy as np

from minitrain.backend import xp


def accumulated(grad, part):
    if grad is None:
        return part
    return xp.asarray(np.where(np.isfinite(part), grad + part, grad))
