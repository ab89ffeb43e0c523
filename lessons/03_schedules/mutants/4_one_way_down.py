"""with one update after the warm-up, this has half of the peak and not all of it."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        return peak * (t + 1) / warm
    return peak * min(1, max(0, updates - t) / max(2, updates - warm))
