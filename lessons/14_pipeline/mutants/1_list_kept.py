"""the list is created once, with the function: each call appends to that of the call before."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r, p, m, v=1, made=[]):  # noqa: B006
    one_chunk("gpipe", v)
    made += [Do(kind, i) for kind in "FB" for i in range(m)]
    return made
