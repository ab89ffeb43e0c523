"""the remaining backwards at the end are missing."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    warmup = min(m, p - r - 1)
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady
