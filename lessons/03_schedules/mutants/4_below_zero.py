"""after the end the rate is negative: such an update goes uphill."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    """Triangular rate: linear rise over `warm` updates, linear decay over the rest; no update is wasted on rate 0.

    Update 0 has the rate peak / warm; updates warm - 1 and warm both have the peak. Then the rate falls by the same
    amount in each update. It reaches 0 at t = updates, just after the last one, and stays 0. 1 <= warm < updates.
    """
    if t < warm:
        return peak * (t + 1) / warm
    return peak * (updates - t) / (updates - warm)
