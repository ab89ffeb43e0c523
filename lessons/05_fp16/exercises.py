"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

EXERCISES = (
    Exercise(
        "05.1",
        "I",
        "minitrain.precision.scaler:next_scale",
        hints=(
            "Three cases: the batch overflowed; it was good, but `interval` is not reached; it was good, and the "
            "interval is reached.",
            "`good` counts the good batches before this one; with this one there are good + 1. In which two cases does "
            "the count return to 0?",
            "On overflow: (scale * backoff, 0). If good + 1 < interval: (scale, good + 1). Otherwise (scale * growth, "
            "0), unless scale * growth is 2.0**128 or more: then (scale, 0).",
        ),
    ),
    Exercise(
        "05.2",
        "B",
        "check:half_step",
        planted="2_as_given.py",
        hints=(
            "Three things are wrong: the order of two steps, what happens when a batch is skipped, and something that "
            "shows only after many small updates.",
            "How long is the gradient that is compared with `clip`? What is returned for a skipped batch? Where do the "
            "digits of master come from?",
            "Divide by S before you compute the norm; return t when the step is skipped; and never set master from "
            "data: data is set from master.",
        ),
        faults=(
            Fault(
                "2_skip_counts.py",
                (
                    "Follow a batch whose grad contains inf, line by line. Compare with the docstring.",
                    "Adam's corrections depend on the number of updates. How many have been made after a skipped "
                    "batch?",
                    "A skipped step changes nothing, so return t, not t + 1.",
                ),
            ),
            Fault(
                "2_clipped_first.py",
                (
                    "Take S = 1024, a gradient of length 1 and clip = 2. Which length is compared with clip?",
                    "`clip` is a limit for the gradient without S. What does g contain when its norm is computed?",
                    "Divide by S before you compute the norm.",
                ),
            ),
            Fault(
                "2_no_master.py",
                (
                    "Make many updates, each much smaller than the distance of two float16 numbers near the weight. "
                    "Where do they go?",
                    "Which array keeps the digits that float16 does not have? Which line throws them away?",
                    "Never set master from data: data is set from master.",
                ),
            ),
        ),
    ),
    Exercise(
        "05.3",
        "P",
        "check:bytes_a_parameter",
        own={"half": (True, False), "numbers": range(3, 60)},
        hints=(
            "List the arrays that have one number for each parameter. How many bytes does a number take in each?",
            "The optimizer computes in float32, whatever the dtype of the weights. What does it keep in addition to m "
            "and v when the weights are float16?",
            "Without half: 4 + 4, and 4 for each of `numbers`. With half: 2 + 2, 4 for the master, and 4 for each of "
            "`numbers`.",
        ),
    ),
    Exercise(
        "05.4",
        "I",
        "minitrain.precision.scaler:agree",
        ranks=3,
        hints=(
            "Write overflow as a number, 0 or 1, into an array of one element. Which of all ranks' numbers gives the "
            "answer?",
            "The largest. Every rank must call all_reduce, even one that found no overflow.",
            "flag = to_device(np.array([overflow], np.int32)); if world is not None: world.all_reduce(flag, OVERFLOW, "
            'op="max"); return bool(flag[0]).',
        ),
    ),
)
