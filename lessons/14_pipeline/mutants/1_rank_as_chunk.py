"""the rank is passed as the chunk; each rank has one chunk, number 0."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r, p, m, v=1):
    one_chunk("gpipe", v)
    return [Do(kind, i, r) for kind in "FB" for i in range(m)]
