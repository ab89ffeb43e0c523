"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

OWN_NORM = (
    "Two ranks, the gradient [1, 0, 0, 1], the limit 1. Which norm does each rank compute? Is anything scaled?",
    "The square of the norm is a sum of squares. Each rank has some of the summands.",
    "Put the rank's sum of squares into an array of one number, group.all_reduce(array, NORM), take the root.",
)

EXERCISES = (
    Exercise(
        "10.1",
        "I",
        "check:owned_parts",
        ranks=3,
        hints=(
            "shard_of(sum(sizes), ranks, rank) is the rank's shard. Where in it does each parameter begin?",
            "A parameter that begins at b covers b:b + size. What has that in common with the shard? Count it from b.",
            "The shard is start:stop, the slice max(start - b, 0) to min(stop - b, size), or slice(0, 0) if empty.",
        ),
    ),
    Exercise(
        "10.2",
        "I",
        "check:zero1_step",
        ranks=3,
        hints=(
            "Three things happen: gradients go to their owners, each owner updates its shard, parameters come back.",
            "group.reduce_scatter(g, GRADIENTS) returns this rank's shard of the sum. Which piece of w belongs to it?",
            "With mine = shard_of(len(w), group.size, group.rank): update(w[mine], ...), then group.all_gather(w, "
            "PARAMETERS).",
        ),
    ),
    Exercise(
        "10.3",
        "B",
        "check:clip_shares",
        ranks=3,
        planted="3_as_given.py",
        hints=OWN_NORM,
        faults=(
            Fault("3_as_given.py", OWN_NORM),
            Fault(
                "3_lengths_added.py",
                (
                    "Two ranks, the gradient [3, 0, 0, 4]. Which norm does the function compute, and which one is "
                    "right?",
                    "What may be added over ranks: norms, or squares of norms?",
                    "All-reduce the sum of squares, and take the root of what comes out.",
                ),
            ),
            Fault(
                "3_mean_square.py",
                (
                    "Two ranks, the gradient [1, 0, 0, 1]. Which norm does the function compute, and which one is "
                    "right?",
                    "The square of the norm is a sum over all numbers of the gradient. What is it divided by here?",
                    "The norm is the root of the all-reduced sum itself: nothing is left to divide.",
                ),
            ),
        ),
    ),
    Exercise(
        "10.4",
        "P",
        "check:bytes_of_a_rank",
        own={
            "parameters": range(1_100_000_000, 9_900_000_000, 100_000_000),
            "ranks": range(18, 60),
            "stage": (1, 2, 3),
        },
        ranks=3,
        hints=(
            "Every rank holds all of what is not divided, and 1/N of what is.",
            "Stage 1 divides the optimizer state, stage 2 also the gradients, stage 3 also the parameters.",
            "In half precision: 16, 4 + 12/N, 2 + 14/N and 16/N bytes per parameter. Now with each = (a, b, c).",
        ),
    ),
)
