"""a warm-up that leaves no updates for the cosine raises no error."""

from functools import partial

from minitrain.lr_schedules import cosine, warmup


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    return warmup(t, warm, partial(cosine, peak=peak, updates=max(1, updates - warm), floor=floor))
