"""instructions are yielded one by one, but a list is needed, which can be read more than once."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r, p, m, v=1):
    one_chunk("gpipe", v)
    for kind in "FB":
        for i in range(m):
            yield Do(kind, i)
