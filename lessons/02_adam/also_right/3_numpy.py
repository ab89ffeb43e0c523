"""a dot product of NumPy's whole numbers."""

import numpy as np


def adam_bytes(sizes):
    return 8 * np.dot(np.array(sizes[:-1]) + 1, sizes[1:])
