"""One more forward at the start, then pairs of a backward and a forward."""

from minitrain.errors import UserError
from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    if v != 1:
        raise UserError("one chunk, please")
    made = [Do("F", i) for i in range(min(m, p - r))]
    for i in range(m):
        made.append(Do("B", i))
        if p - r + i < m:
            made.append(Do("F", p - r + i))
    return made
