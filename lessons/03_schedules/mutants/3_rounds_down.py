"""the numbers of updates are halved with //, but t may be fractional."""

import math


def halves(updates: int, warm: int, gamma: float, k: float) -> dict[str, float]:
    middle = updates // 2
    return {
        "linear": float(middle),
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "cosine": float(middle),
        "warmup_cosine": float(warm + (updates - warm) // 2),
    }
