"""S only shrinks and never grows."""


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    return (scale * backoff, 0) if overflow else (scale, good + 1)
