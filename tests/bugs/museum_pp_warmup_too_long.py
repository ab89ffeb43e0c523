"""1F1B starts with one forward too many: every rank holds the activations of one more micro-batch."""

from minitrain.parallel.pipeline_schedules import Do
from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import test_activations_in_flight


def one_too_many(r: int, p: int, m: int, v: int = 1) -> list[Do]:
    warmup = min(m, p - r)
    instructions = [Do("F", i) for i in range(warmup)]
    for i in range(m):
        instructions += [Do("F", warmup + i)] if warmup + i < m else []
        instructions += [Do("B", i)]
    return instructions


COUNTS = [4, 3, 2, 1]
BUG = FunctionBug(test_activations_in_flight, ("1f1b", COUNTS), (one_too_many, COUNTS))
