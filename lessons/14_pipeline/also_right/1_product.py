"""Takes the product of the kinds and the micro-batches."""

from itertools import product, starmap

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk(name="gpipe", v=v)
    return list(starmap(Do, product("FB", range(m))))
