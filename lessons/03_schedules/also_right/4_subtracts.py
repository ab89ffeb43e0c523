"""the way down subtracts whole steps from the peak."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    up, down = peak / warm, peak / (updates - warm)
    return up * (t + 1) if t < warm else max(0.0, peak - down * (t - warm)) if t < updates else 0.0
