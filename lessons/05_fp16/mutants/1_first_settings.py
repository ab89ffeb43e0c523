"""growth and backoff are kept from the first call with this interval."""

KEPT = {}


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    growth, backoff = KEPT.setdefault(interval + 100 * (scale > 2.0**100), (growth, backoff))
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0
