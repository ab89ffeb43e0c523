"""Gives each instruction a time, a backward p - r - 1/2 forwards after its own, and sorts."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("one_forward_one_backward", v)
    timed = {Do("F", i): 2 * i for i in range(m)} | {Do("B", i): 2 * (i + p - r) - 1 for i in range(m)}
    return sorted(timed, key=timed.__getitem__)
