"""one micro-batch is enough for half of the time on two ranks, not on more."""


def micro_batches(p, percent):
    return 1 if percent > 50 else max(1, -(-(p - 1) * (100 - percent) // percent))
