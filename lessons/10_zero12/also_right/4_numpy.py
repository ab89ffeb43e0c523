"""A dot product of bytes and fractions, and a NumPy float."""

import numpy as np


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    parts = np.where(stage >= np.array([3, 2, 1]), 1 / ranks, 1.0)
    return parameters * np.dot(np.array(each, float), parts)
