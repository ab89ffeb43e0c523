"""a module variable counts the good batches between calls; count from the argument good."""

CALLS = []


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if good == 0:
        CALLS.clear()
    CALLS.append(overflow)
    if overflow:
        return scale * backoff, 0
    if len(CALLS) < interval:
        return scale, len(CALLS)
    return (scale * growth if scale * growth < 2.0**128 else scale), 0
