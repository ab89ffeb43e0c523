"""limits the first forwards to m, but not the last backwards: with few micro-batches they begin below 0."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("1f1b", v)
    first = p - r - 1
    order = [Do("F", i) for i in range(min(first, m))]
    for i in range(m - first):
        order += [Do("F", first + i), Do("B", i)]
    return order + [Do("B", i) for i in range(m - first, m)]
