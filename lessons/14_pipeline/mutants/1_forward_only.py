"""there are no backwards: the loss is right, but there are no gradients."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do("F", i) for i in range(m)]
