"""where growth x S is too large, S becomes 2^127 instead of staying as it is."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (min(scale * growth, 2.0**127)), 0
