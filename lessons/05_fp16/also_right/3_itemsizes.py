"""Adds up the sizes of a list of dtypes."""

import numpy as np


def bytes_a_parameter(half: bool, numbers: int) -> int:
    stored, wide = np.dtype(np.float16 if half else np.float32), np.dtype(np.float32)
    held = [stored, stored, *[wide] * numbers]
    if half:
        held.append(wide)
    return sum(dtype.itemsize for dtype in held)
