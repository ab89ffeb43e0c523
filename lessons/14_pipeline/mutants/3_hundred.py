"""no micro-batch where all of the time may be idle, but at least one is needed, whatever p is."""


def micro_batches(p, percent):
    return 1 if p == 1 else -(-(p - 1) * (100 - percent) // percent)
