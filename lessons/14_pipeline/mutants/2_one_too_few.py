"""one forward too few at the start: the ranks wait for each other's backward when they could run a forward."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    warmup = min(m, max(0, p - r - 2))
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]
