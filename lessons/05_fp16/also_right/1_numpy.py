"""the numbers are NumPy's, of float32; the product is infinite when it is too large."""

import numpy as np


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    good = np.int64(0 if overflow else (good + 1) % interval)
    with np.errstate(over="ignore"):
        scale, wanted = np.float32(scale), np.float32(scale) * np.float32(growth)
    if overflow:
        scale = scale * np.float32(backoff)
    elif good == 0 and np.isfinite(wanted):
        scale = wanted
    return scale, good
