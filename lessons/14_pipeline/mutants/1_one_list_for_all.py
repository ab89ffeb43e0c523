"""the same list is returned to every caller: who changes it changes it for all."""

from functools import cache

from minitrain.parallel.pipeline_schedules import Do, one_chunk


@cache
def gpipe(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("gpipe", v)
    return [Do(kind, i) for kind in "FB" for i in range(m)]
