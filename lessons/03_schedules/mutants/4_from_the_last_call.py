"""the rate falls from that of the previous call, whatever its t was."""

LAST = [0.0]


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    if t < warm:
        LAST[0] = peak * (t + 1) / warm
    elif t == warm:
        LAST[0] = peak
    else:
        LAST[0] = max(0.0, LAST[0] - peak / (updates - warm))
        if LAST[0] < 1e-12 * peak:
            LAST[0] = 0.0
    return LAST[0]
