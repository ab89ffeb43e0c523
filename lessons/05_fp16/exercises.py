"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "05.1",
        "I",
        "minitrain.precision.scaler:next_scale",
        hints=(
            "Three cases: the batch overflowed; it did not, and too few good ones have come; enough have come.",
            "`good` counts the good batches before this one, so with this one they are good + 1. In which two cases "
            "does the count go back to 0?",
            "if overflow: (scale * backoff, 0). If good + 1 < interval: (scale, good + 1). Otherwise (scale * growth, "
            "0), unless scale * growth is 2.0**128 or more: then (scale, 0).",
        ),
    ),
    Exercise(
        "05.2",
        "B",
        "check:half_step",
        planted="2_as_given.py",
        hints=(
            "Three things are wrong: one in the order of two steps, one when a batch is skipped, and one that shows "
            "only after many small updates.",
            "How long is the gradient that is compared with `clip`? What is returned when nothing was done? And where "
            "do the digits of master come from?",
            "Divide by S before the length is taken; return t when the step is skipped; and never read master from "
            "data: it is data that is written from master.",
        ),
    ),
    Exercise(
        "05.3",
        "P",
        "check:bytes_a_parameter",
        hints=(
            "Count the arrays that have as many numbers as there are parameters. How many bytes has a number in each?",
            "The optimizer works in float32, whatever the weights are stored in. What does it hold beside m and v when "
            "the weights are float16?",
            "Without half: 4 + 4, and 4 for each number. With half: 2 + 2, 4 for the master, and 4 for each number.",
        ),
    ),
    Exercise(
        "05.4",
        "I",
        "minitrain.precision.scaler:agree",
        ranks=3,
        hints=(
            "Write overflow as a number, 0 or 1, into an array of one element. Of all ranks' numbers, which one tells?",
            "The largest. Every rank must take part in the all-reduce, also one that found nothing.",
            "flag = to_device(np.array([overflow], np.int32)); if there is a world: world.all_reduce(flag, OVERFLOW, "
            'op="max"); the answer is bool(flag[0]).',
        ),
    ),
)
