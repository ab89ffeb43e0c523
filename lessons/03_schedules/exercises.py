"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "03.1",
        "I",
        "minitrain.lr_schedules:warmup_cosine",
        hints=(
            "Two cases, t < warm and the others. Which t does the cosine begin to count from, and how many updates has "
            "it got?",
            "After the end the cosine would rise again: let the quotient not grow above 1. And 0.1 * 3 / 3 is not 0.1, "
            "nor is 0.03 + (0.3 - 0.03) quite 0.3: multiply the cosine's own first rate by (t + 1) / warm, which is "
            "exactly 1 at the join.",
            "The library has both halves, and `partial` fills in arguments: warmup(t, warm, then), where then(0), "
            "then(1), ... are the rates after the warm-up. What is `then`?",
        ),
    ),
    Exercise(
        "03.2",
        "I",
        "minitrain.lr_schedules:anneal",
        hints=(
            "pairwise(points) gives each point with the next one. Between which two is t?",
            "(t - s) / (e - s) is the share of the way that is done: 0 at the first of the two points, 1 at the "
            "second. It goes into the formula.",
            "for (s, a), (e, b) in pairwise(points): if t <= e: return the formula. After the loop: points[-1][1]. "
            "Before it: the check that raises UserError.",
        ),
    ),
    Exercise(
        "03.3",
        "P",
        "check:halves",
        hints=(
            "For each schedule write lr_t = peak / 2; the peak drops out. Solve for t.",
            "gamma^t = 1/2: take logarithms of both sides. cos(x) = 0 at x = pi / 2.",
            "Two schedules are half way at half time. 1 + k t = 2. And with a warm-up the same cosine begins later and "
            "is shorter.",
        ),
    ),
    Exercise(
        "03.4",
        "B",
        "lesson:triangle",
        planted="4_as_given.py",
        hints=(
            "Write down all rates for peak 6, warm 3, updates 6, and compare with the docstring. Then for t = 6 and 7.",
            "Three things: update 0 has the rate 0, so has update 5, and later rates are below 0.",
            "(t + 1) / warm on the way up; on the way down (updates - t) / (updates - warm), and never below 0.",
        ),
    ),
)
