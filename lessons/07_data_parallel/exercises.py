"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "07.1",
        "I",
        "minitrain.sharding:shard_of",
        hints=(
            "divmod(n, parts) tells how long the short runs are, and how many elements are left over.",
            "Each of the first n % parts runs takes one of the left-over elements. How many elements lie before run i?",
            "Run i starts at i * base + min(i, longer) and is base long, or base + 1 when i < longer.",
        ),
    ),
    Exercise(
        "07.2",
        "I",
        "minitrain.parallel.data_parallel:sync_gradients",
        ranks=3,
        hints=(
            "Each rank holds one summand. Which collective leaves the sum on every rank?",
            "The loss is divided by the size of the global batch already, so nothing is left to be divided.",
            "For each gradient: group.all_reduce(gradient, TAG), which works in place.",
        ),
    ),
    Exercise(
        "07.3",
        "B",
        "lesson:train",
        ranks=3,
        planted="3_as_given.py",
        hints=(
            "Two lines are wrong. One makes the ranks differ before the first step, the other changes the size of the "
            "gradient.",
            "With which seed does each rank draw its parameters? And what is the loss of a rank's part divided by?",
            "All ranks need the same seed; and what batch.part returns must stay as it is, with its `where`.",
        ),
    ),
    Exercise(
        "07.4",
        "P",
        "check:bytes_of_a_step",
        ranks=3,
        hints=(
            "The gradients of all parameters are added up once a step, by a ring (lesson 06).",
            "A ring all-reduce has two phases, and in each of them every element makes N - 1 hops.",
            "2 (N - 1) M bytes, with M = 4 bytes for each parameter.",
        ),
    ),
)
