"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

WRONG_CHUNK = (
    "Run the check, and compare the ranks' arrays: what is off by one?",
    "Which chunk has a rank just received, and which one does it forward?",
    "Every rank forwards the chunk that arrived in the same step: x[shard_of(len(x), n, step)].",
)

EXERCISES = (
    Exercise(
        "06.1",
        "I",
        "minitrain.comm.ring:ring_reduce_scatter",
        ranks=3,
        hints=(
            "Follow one chunk, c. After N - 1 messages, each to the next rank, it must be complete on rank c. On which "
            "rank does it start?",
            "Chunk c starts on rank c + 1. So rank r sends chunk r - 1 first, and then always the one that it has just "
            "added to: r - 2, r - 3, ..., all modulo N. Chunk c is x[shard_of(len(x), N, c)], or x[shards[c]].",
            "In step s: start to send chunk (r - 1 - s) % n, receive into a buffer as long as chunk (r - 2 - s) % n, "
            "add it to that chunk of x, then wait for the send. At the end return chunk r of x.",
        ),
    ),
    Exercise(
        "06.2",
        "I",
        "minitrain.comm.ring:ring_all_gather",
        ranks=3,
        hints=(
            "The same ring as in reduce-scatter, but the chunk that arrives is complete and replaces that of x.",
            "Rank r sends its own chunk r first. Rank r - 1 sends it chunk r - 1, which it sends next.",
            "In step s: start to send chunk (r - s) % n, receive directly into chunk (r - 1 - s) % n of x, then wait "
            "for the send.",
        ),
    ),
    Exercise(
        "06.3",
        "P",
        "check:equal_size",
        own={
            "ranks": range(5, 60),
            "alpha": (1e-6, 2e-6, 3e-6, 5e-6, 7e-6),
            "beta": (1e-10, 2e-10, 3e-10, 5e-10, 7e-10),
        },
        hints=(
            "Set the two formulas equal. Collect the terms with alpha on one side, and those with M beta on the other.",
            "With L = ceil(log2 N): alpha (N - 1 - L) = M beta (L - (N - 1)/N).",
            "M = alpha (N - 1 - L) / (beta (L - (N - 1)/N)). Is it 0 for 2 and 3 ranks?",
        ),
    ),
    Exercise(
        "06.4",
        "B",
        "minitrain.comm.ring:ring_broadcast",
        ranks=3,
        planted="4_as_given.py",
        hints=WRONG_CHUNK,
        faults=(
            Fault("4_as_given.py", WRONG_CHUNK),
            Fault(
                "4_last_chunk_stays.py",
                (
                    "Run the check, and compare the ranks' arrays: which numbers are missing, and on which ranks?",
                    "Into how many chunks is x divided? How many of them leave the root?",
                    "There are n chunks, one for each rank, so there are n steps: for step in range(n).",
                ),
            ),
            Fault(
                "4_root_is_zero.py",
                (
                    "Run the check, and look at the first case that fails: which rank is the root there?",
                    "`place` is a rank's distance from the rank where the array starts. Where does it start?",
                    "place = (comm.rank - root) % comm.size is 0 on the root, and n - 1 on the rank before it.",
                ),
            ),
        ),
    ),
)
