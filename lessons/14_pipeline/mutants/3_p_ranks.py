"""p instead of p-1: a pipeline of p stages fills in p-1 steps."""


def micro_batches(p, percent):
    return max(1, -(-p * (100 - percent) // percent))
