"""one micro-batch leaves half of the time idle on two ranks, and a larger part on more ranks."""


def micro_batches(p, percent):
    return 1 if percent > 50 else max(1, -(-(p - 1) * (100 - percent) // percent))
