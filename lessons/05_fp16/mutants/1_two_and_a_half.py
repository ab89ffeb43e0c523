"""2 and 0.5 are hard-coded; the arguments growth and backoff are ignored."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * 0.5, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * 2 if scale * 2 < 2.0**128 else scale), 0
