"""this batch itself is not counted: S grows one batch late."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0
