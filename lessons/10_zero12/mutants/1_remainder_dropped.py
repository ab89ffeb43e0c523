"""right only if N divides the size: the remainder of the division belongs to no rank."""


def owned_parts(sizes, ranks, rank):
    length = sum(sizes) // ranks
    start, stop, begin, parts = rank * length, (rank + 1) * length, 0, []
    for size in sizes:
        lo, hi = max(start - begin, 0), min(stop - begin, size)
        parts.append(slice(lo, hi) if lo < hi else slice(0, 0))
        begin += size
    return parts
