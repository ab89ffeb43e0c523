"""the rate stays at 0 for a few updates only, then a new triangle starts."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    t = t if t < 2 * updates else t % (2 * updates)
    if t < warm:
        return peak * (t + 1) / warm
    return peak * max(0, updates - t) / (updates - warm)
