"""Top-p drops the token with which the limit is reached; if it is the first, nothing is left to draw."""

import numpy as np

from tests.bugs.museum import FunctionBug
from tests.train.test_generate import test_what_is_kept


def without_the_last(p: np.ndarray, limit: float) -> np.ndarray:
    """Keep the tokens up to the limit."""
    order = np.argsort(-p, kind="stable")
    kept = order[np.cumsum(p[order]) / p.sum() <= limit]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0)


BUG = FunctionBug(test_what_is_kept, (2, 0.5), keep_top_p=without_the_last)
