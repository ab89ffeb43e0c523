"""each rate is computed from the one before, by recursion: too deep for Python at late updates."""


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        return peak * (t + 1) / warm
    if t == warm or t >= updates:
        return peak if t == warm else 0.0
    return triangle(t - 1, peak, warm, updates) - peak / (updates - warm)
