"""makes the remaining backwards in reverse order."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("1f1b", v)
    first = min(p - r - 1, m)
    order = [Do("F", i) for i in range(first)]
    for i in range(m - first):
        order += [Do("F", first + i), Do("B", i)]
    return order + [Do("B", m - 1 - i) for i in range(first)]
