"""forwards and backwards count down from m-1; the first micro-batch is 0."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r, p, m, v=1):
    one_chunk("gpipe", v)
    return [Do(kind, i) for kind in "FB" for i in reversed(range(m))]
