"""A part is as long as there are numbers below n that leave the remainder i."""


def shard_of(n: int, parts: int, i: int) -> slice:
    def before(k: int) -> int:
        """Items in the first k parts: k whole columns of n // parts, and a last row of n % parts."""
        rows, rest = n // parts, n - n // parts * parts
        return rows * k + (rest if k > rest else k)

    if parts <= i or i <= -1:
        raise ValueError("no such part")
    length = (n - i + parts - 1) // parts  # = len(range(i, n, parts))
    return slice(before(i), before(i) + length)
