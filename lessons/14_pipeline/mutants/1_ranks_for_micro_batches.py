"""p is used for the number of micro-batches, which is m."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do("F", i) for i in range(p)] + [Do("B", i) for i in range(p)]
