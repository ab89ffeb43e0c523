"""micro-batches are counted from 1; they are 0 .. m-1."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do("F", i + 1) for i in range(m)] + [Do("B", i + 1) for i in range(m)]
