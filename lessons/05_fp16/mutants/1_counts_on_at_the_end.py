"""where S cannot grow any more, the count must restart as well."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good + 1 >= interval and scale * growth < 2.0**128:
        return scale * growth, 0
    return scale, good + 1
