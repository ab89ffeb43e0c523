"""two mistakes are left: a wasted update at the end, and rates below 0 after it."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    """The rate of update t: up in a line over `warm` updates, down in a line over the rest, and no update is wasted.

    Update 0 has the rate peak / warm; warm - 1 and warm both have the peak. The rate comes down by the same amount from
    each update to the next, and meets 0 at t = updates, just after the last one; there it stays. 1 <= warm < updates.
    """
    if t < warm:
        return peak * (t + 1) / warm
    return peak * (updates - 1 - t) / (updates - 1 - warm)
