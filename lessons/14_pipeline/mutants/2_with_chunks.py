"""v is ignored: with two chunks per rank these lists would leave out half of the model."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    warmup = min(m, p - r - 1)
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]
