"""the sum is computed in g's own dtype: a float16 sum stops growing at 2048."""


def unbroadcast(g, shape):
    added = tuple(range(g.ndim - len(shape)))
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1)
    return g.sum(axis=added + stretched, keepdims=True).reshape(shape)
