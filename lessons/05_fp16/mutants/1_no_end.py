"""S grows beyond float32's largest number and becomes inf there."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return scale * growth, 0
