"""the end is found by dividing it by growth, and counting down from the interval."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    left = 0 if overflow else interval - good - 1
    if overflow or left == 0:
        scale = scale * backoff if overflow else scale * growth if scale < 2.0**128 / growth else scale
        return scale, 0
    return scale, interval - left
