"""with one update after the warm-up, it has half the peak instead of the peak."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        return peak * (t + 1) / warm
    return peak * min(1, max(0, updates - t) / max(2, updates - warm))
