"""there are no backwards: the loss is right, and no gradient is made."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do("F", i) for i in range(m)]
