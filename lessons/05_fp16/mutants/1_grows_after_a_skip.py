"""good batches before an overflow still count after it: S grows too soon."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, good
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0
