"""micro-batches count down from m-1 on every rank; the first one is 0."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r, p, m, v=1):
    one_chunk("1f1b", v)
    warmup = min(m, p - r - 1)
    order = list(reversed(range(m)))
    steady = [do for f, b in zip(order[warmup:], order, strict=False) for do in (Do("F", f), Do("B", b))]
    return [Do("F", i) for i in order[:warmup]] + steady + [Do("B", i) for i in order[m - warmup :]]
