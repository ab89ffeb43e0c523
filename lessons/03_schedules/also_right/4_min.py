"""the lower one of two lines, and 0 below."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    return max(0.0, min(peak, peak * (t + 1) / warm, peak * (updates - t) / (updates - warm)))
