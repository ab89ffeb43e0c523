"""makes all forwards first on every rank when there are fewer micro-batches than ranks."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("1f1b", v)
    if m < p:
        return [Do(kind, i) for kind in "FB" for i in range(m)]
    first = p - r - 1
    order = [Do("F", i) for i in range(first)]
    for i in range(m - first):
        order += [Do("F", first + i), Do("B", i)]
    return order + [Do("B", i) for i in range(m - first, m)]
