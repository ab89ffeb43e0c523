"""each micro-batch goes all the way back before the next one begins: one rank works, the others wait."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    return [Do(kind, i) for i in range(m) for kind in "FB"]
