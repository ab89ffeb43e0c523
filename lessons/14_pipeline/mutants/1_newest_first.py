"""all ranks go back newest first, as in the paper's figure; here gradients are summed in the order of one process."""

from minitrain.parallel.pipeline_schedules import Do, one_chunk


def gpipe(r, p, m, v=1):
    one_chunk("gpipe", v)
    return [Do("F", i) for i in range(m)] + [Do("B", i) for i in reversed(range(m))]
