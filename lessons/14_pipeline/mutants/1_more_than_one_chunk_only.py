"""v is refused only if it is above 1."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    if v > 1:
        one_chunk("gpipe", v)
    return [Do(kind, i) for kind in "FB" for i in range(m)]
