"""all forwards come first: that is GPipe, and it keeps m activations."""

from minitrain.parallel.pipeline_schedules import Do


def one_forward_one_backward(r, p, m, v=1):
    return [Do("F", i) for i in range(m)] + [Do("B", i) for i in range(m)]
