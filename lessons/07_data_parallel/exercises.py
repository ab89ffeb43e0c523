"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

EXERCISES = (
    Exercise(
        "07.1",
        "I",
        "minitrain.sharding:shard_of",
        hints=(
            "base, longer = divmod(n, parts): `base` is the length of the short parts; `longer` is the number of items "
            "left over.",
            "Each of the first `longer` parts takes one of the items left over. How many items lie before part i?",
            "Part i starts at i * base + min(i, longer). Its length is base, or base + 1 if i < longer.",
        ),
    ),
    Exercise(
        "07.2",
        "I",
        "minitrain.parallel.data_parallel:sync_gradients",
        ranks=3,
        hints=(
            "Each rank holds one summand. Which collective leaves the sum on every rank?",
            "The loss is already divided by the size of the global batch, so nothing is left to divide.",
            "For each gradient: group.all_reduce(gradient, TAG, shards=shards), which works in place.",
        ),
    ),
    Exercise(
        "07.3",
        "B",
        "lesson:train",
        ranks=3,
        planted="3_as_given.py",
        together="it trains with the check's data and returns a model",
        hints=(
            "Two lines are wrong. One makes the ranks differ before the first step; the other changes the size of the "
            "gradient.",
            "From which seed does each rank draw its parameters? And by what is the loss of a rank's part divided?",
            "All ranks need the same seed, and the batch that `part` returns must stay as it is, with its `where`.",
        ),
        faults=(
            Fault(
                "3_local_means_summed.py",
                (
                    "One line is wrong. It changes the size of the gradient.",
                    "By what is the loss of a rank's part divided? By what must it be divided, so that the parts add "
                    "up?",
                    "The batch that `part` returns must stay as it is, with its `where`: B is the size of the global "
                    "batch.",
                ),
            ),
            Fault(
                "3_replicas_start_different.py",
                (
                    "One line is wrong. It makes the ranks differ before the first step.",
                    "From which seed does each rank draw its parameters?",
                    "All ranks need the same seed, so that all replicas start equal.",
                ),
            ),
            Fault(
                "3_first_shard.py",
                (
                    "One line is wrong. The replicas stay equal, but the run is not that of one process.",
                    "Write down which samples each of three ranks takes from a batch. Does each sample occur once?",
                    "Rank r takes part r of the batch: part(world.rank, world.size).",
                ),
            ),
        ),
    ),
    Exercise(
        "07.4",
        "P",
        "check:bytes_of_a_step",
        own={"parameters": range(1100, 9900, 10), "ranks": range(5, 60)},
        ranks=3,
        hints=(
            "The gradients of all parameters are summed once per step, on a ring (lesson 06).",
            "A ring all-reduce has two phases. In each of them every number makes N - 1 hops.",
            "2 (N - 1) M bytes, where M is 4 bytes for each parameter.",
        ),
    ),
)
