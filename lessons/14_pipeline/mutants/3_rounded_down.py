"""rounded down: the bubble is then a little larger than allowed."""


def micro_batches(p, percent):
    return max(1, (p - 1) * (100 - percent) // percent)
