"""S stays at 1 or above: the rule has no such limit (the scaler applies its floor afterwards)."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return max(1.0, scale * backoff), 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0
