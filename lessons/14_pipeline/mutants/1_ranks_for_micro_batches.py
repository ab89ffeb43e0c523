"""there are m micro-batches, not p: the number of ranks is another one."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do("F", i) for i in range(p)] + [Do("B", i) for i in range(p)]
