"""S grows with every good batch, without waiting for `interval` of them."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    return (scale * growth if scale * growth < 2.0**128 else scale), good + 1
