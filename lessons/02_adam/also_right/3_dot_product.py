"""One dot product of neighbouring sizes, one more row for the biases; NumPy's float32 says how long a number is."""

import numpy as np


def adam_bytes(sizes: tuple[int, ...]) -> int:
    """Return the bytes of optimizer state that Adam keeps for a float32 MLP with these layer sizes."""
    widths = np.array(sizes, dtype=np.int64)
    parameters = np.dot(widths[:-1] + 1, widths[1:])
    return int(2 * np.dtype(np.float32).itemsize * parameters)
