"""Takes from two queues, in turns until one of them is empty."""

from collections import deque

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def one_forward_one_backward(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    def moves():
        forwards = deque(Do("F", i) for i in range(m))
        backwards = deque(Do("B", i) for i in range(m))
        for _ in range(p - 1 - r):
            if forwards:
                yield forwards.popleft()
        while forwards:
            yield forwards.popleft()
            yield backwards.popleft()
        yield from backwards

    one_chunk("1f1b", v)
    return [*moves()]
