"""after the end the rate stays at that of the last update instead of 0."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        return peak * ((t + 1) / warm)
    return peak * ((updates - min(t, updates - 1)) / (updates - warm))
