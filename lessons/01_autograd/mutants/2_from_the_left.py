"""the shapes are aligned from the left; broadcasting aligns them from the right."""

from minitrain import backend


def unbroadcast(g, shape):
    if g.shape == shape:
        return g
    padded = shape + (1,) * (g.ndim - len(shape))
    stretched = tuple(axis for axis, n in enumerate(padded) if n == 1 and g.shape[axis] != 1)
    return backend.total(g, axis=stretched, keepdims=True).reshape(shape)
