"""No formula: a forward while fewer than p-r are in flight, else a backward."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r, p, m, v=1):
    one_chunk("1f1b", v)
    made, forward, back = [], 0, 0
    while back < m:
        if forward < m and forward - back < p - r:
            made.append(Do("F", forward))
            forward += 1
        else:
            made.append(Do("B", back))
            back += 1
    return made
