"""the numerator is fixed but not the denominator, and min hides the rest: two updates have the peak."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        return peak * ((t + 1) / warm)
    gaps = max(1, updates - 1 - warm)
    return min(peak, peak * max(0, updates - t) / gaps)
