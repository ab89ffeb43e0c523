"""each axis that was repeated is multiplied by ones in float32 or wider."""

import numpy as np


def unbroadcast(g, shape):
    wide = g.astype(np.float32) if g.dtype.itemsize < 4 else g
    for axis in range(g.ndim):
        i = axis - g.ndim + len(shape)
        if i < 0 or shape[i] == 1:
            ones = np.ones(wide.shape[axis], wide.dtype)
            wide = np.expand_dims(np.tensordot(wide, ones, axes=(axis, 0)), axis)
    return wide.reshape(shape).astype(g.dtype)
