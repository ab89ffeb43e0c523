"""the newest micro-batch goes back first, as from a stack: this works only if sends do not wait."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    warmup = min(m, p - r - 1)
    steady = [do for i in range(warmup, m) for do in (Do("F", i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in reversed(range(warmup))]
