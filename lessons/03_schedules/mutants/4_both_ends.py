"""the way down goes one update too far: it meets 0 at updates + 1."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    """The rate of update t: up in a line over `warm` updates, down in a line over the rest, and no update is wasted.

    Update 0 has the rate peak / warm; warm - 1 and warm both have the peak. The rate comes down by the same amount from
    each update to the next, and meets 0 at t = updates, just after the last one; there it stays. 1 <= warm < updates.
    """
    if t < warm:
        return peak * (t + 1) / warm
    return peak * max(0, updates + 1 - t) / (updates + 1 - warm)
