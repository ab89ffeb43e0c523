"""the last rank goes back newest first, the others oldest first: this works only if sends do not wait."""

from minitrain.parallel.pipeline_schedules import Do


def gpipe(r, p, m, v=1):
    back = reversed(range(m)) if r == p - 1 else range(m)
    return [Do("F", i) for i in range(m)] + [Do("B", i) for i in back]
