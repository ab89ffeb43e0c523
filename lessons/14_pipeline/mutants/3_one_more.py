"""one too many where the division is exact: `percent` itself is allowed."""


def micro_batches(p, percent):
    return (p - 1) * (100 - percent) // percent + 1
