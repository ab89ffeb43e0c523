"""The triangle is the lower of two lines, cut at the peak and at 0."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    share = min(1.0, (t + 1) / warm, (updates - t) / (updates - warm))
    return peak * max(0.0, share)
