"""Makes a forward whenever one is left and fewer than p - r are in flight, else a backward."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    one_chunk("1f1b", v)
    order, forward, backward = [], 0, 0
    while backward < m:
        if forward < m and forward - backward < p - r:
            order.append(Do("F", forward))
            forward += 1
        else:
            order.append(Do("B", backward))
            backward += 1
    return order
