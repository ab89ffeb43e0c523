"""idle time is compared with the ideal time, (p-1)/m, not with all time."""


def micro_batches(p, percent):
    return max(1, -(-(p - 1) * 100 // percent))
