"""one more than is needed where the division leaves nothing: `percent` itself is allowed."""


def micro_batches(p, percent):
    return (p - 1) * (100 - percent) // percent + 1
