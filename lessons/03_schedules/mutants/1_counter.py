"""it counts its calls and ignores t."""

from itertools import count

from minitrain import lr_schedules

CALLS = {}


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    calls = CALLS.setdefault((peak, warm, updates, floor), count())
    return lr_schedules.warmup_cosine(next(calls), peak, warm, updates, floor)
