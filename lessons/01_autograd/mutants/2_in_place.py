"""the copies' parts are added up in g itself, which changes g."""


def unbroadcast(g, shape):
    wide = g.astype("float32") if g.dtype.itemsize < 4 else g
    while wide.ndim > len(shape):
        wide = wide.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1 and wide.shape[axis] > 1:
            first, others = (wide.swapaxes(0, axis)[part] for part in (slice(0, 1), slice(1, None)))
            first += others.sum(axis=0)
            wide = first.swapaxes(0, axis)
        elif n == 1:
            wide = wide.sum(axis=axis, keepdims=True)
    return wide.astype(g.dtype).reshape(shape)
