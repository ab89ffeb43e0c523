"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "10.1",
        "I",
        "check:owned_parts",
        ranks=3,
        hints=(
            "shard_of(sum(sizes), ranks, rank) is the rank's shard. Where in it does each parameter begin?",
            "A parameter that begins at b covers b:b + size. What have that and the share in common? Count it from b.",
            "The part is from max(start - begin, 0) to min(stop - begin, size), and empty if that is no range.",
        ),
    ),
    Exercise(
        "10.2",
        "I",
        "check:zero1_step",
        ranks=3,
        hints=(
            "Three things happen: gradients go to their owners, each owner steps on its share, parameters come back.",
            "group.reduce_scatter(g, GRADIENTS) returns this rank's share of the sum. Which piece of w belongs to it?",
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
        hints=(
            "Two ranks, the gradient [1, 0, 0, 1], the limit 1. What does each rank see? Is anything shortened?",
            "The square of a length is a sum of squares. Each rank has some of the summands.",
            "Put the rank's sum of squares into an array of one number, group.all_reduce(array, NORM), then the root.",
        ),
    ),
    Exercise(
        "10.4",
        "P",
        "check:bytes_of_a_rank",
        ranks=3,
        hints=(
            "What is not divided is held whole by every rank; of what is divided, a rank has 1/N.",
            "Stage 1 divides the optimizer's state, 2 the gradients as well, 3 the parameters as well.",
            "In half precision: 16, 4 + 12/N, 2 + 14/N and 16/N bytes a parameter. Now with each = (a, b, c).",
        ),
    ),
)
