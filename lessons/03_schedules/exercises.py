"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

EXERCISES = (
    Exercise(
        "03.1",
        "I",
        "minitrain.lr_schedules:warmup_cosine",
        hints=(
            "Two cases: t < warm, and the rest. From which t does the cosine count, and how many updates are left for "
            "it?",
            "After the end the cosine would rise again: limit the quotient to 1. And 0.1 * 3 / 3 is not exactly 0.1, "
            "nor is 0.03 + (0.3 - 0.03) exactly 0.3: multiply the cosine's own first rate by (t + 1) / warm, which is "
            "exactly 1 at the join.",
            "The library has both halves, and `partial` fixes arguments: warmup(t, warm, then), where then(0), "
            "then(1), ... are the rates after the warm-up. What is `then`?",
        ),
    ),
    Exercise(
        "03.2",
        "I",
        "minitrain.lr_schedules:anneal",
        hints=(
            "pairwise(points) yields each point with the next one. Between which two is t?",
            "(t - s) / (e - s) is the fraction of the way from the first of the two points, where it is 0, to the "
            "second, where it is 1. It goes into the formula.",
            "for (s, a), (e, b) in pairwise(points): if t <= e: return the formula. After the loop: return "
            "points[-1][1]. Before it: the check that raises UserError.",
        ),
    ),
    Exercise(
        "03.3",
        "P",
        "check:halves",
        own={
            "updates": range(210, 2000, 20),
            "warm": range(15, 100, 5),
            "gamma": (0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99),
            "k": (0.002, 0.004, 0.005, 0.008, 0.02, 0.025, 0.04, 0.05),
        },
        hints=(
            "For each schedule write lr_t = peak / 2; the peak cancels. Solve for t.",
            "gamma^t = 1/2: take logarithms of both sides. cos(x) = 0 at x = pi / 2.",
            "Linear and cosine reach half the peak after half their updates. Inverse time: 1 + k t = 2. After a "
            "warm-up the same cosine begins later and is shorter.",
        ),
    ),
    Exercise(
        "03.4",
        "B",
        "lesson:triangle",
        planted="4_as_given.py",
        hints=(
            "Write down all rates for peak 6, warm 3, updates 6, then for t = 6 and 7. Compare with the docstring.",
            "Update 0 has the rate 0, update 5 has the rate 0, and later rates are below 0.",
            "(t + 1) / warm on the way up; (updates - t) / (updates - warm) on the way down, never below 0.",
        ),
        faults=(
            Fault(
                "4_rise_from_zero.py",
                (
                    "Write down all rates for peak 6, warm 3, updates 6. Compare with the docstring.",
                    "Update 0 has the rate 0, and the peak is reached only by update `warm`.",
                    "On the way up the rate is peak * (t + 1) / warm.",
                ),
            ),
            Fault(
                "4_below_zero.py",
                (
                    "Write down all rates for peak 6, warm 3, updates 6, then for t = 6, 7 and 8. Compare with the "
                    "docstring.",
                    "What does the rate do after t = updates? What does a step with that rate do?",
                    "On the way down, take max(0, updates - t), so that the rate stays 0 after the end.",
                ),
            ),
            Fault(
                "4_both_ends.py",
                (
                    "Write down all rates for peak 6, warm 3, updates 6, then for t = 6 and 7. Compare with the "
                    "docstring.",
                    "By how much does the rate fall in each update? At which t does it reach 0, and at which must it?",
                    "On the way down the rate is peak * (updates - t) / (updates - warm), never below 0.",
                ),
            ),
        ),
    ),
)
