"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "06.1",
        "I",
        "minitrain.comm.ring:ring_reduce_scatter",
        ranks=3,
        hints=(
            "Look at one chunk only, say chunk c. It must end on rank c, complete, after N - 1 hops to the right. On "
            "which rank does it start?",
            "Chunk c starts on rank c + 1. So rank r sends chunk r - 1 first, and then always the one to which it has "
            "just added: r - 2, r - 3, ... All of them mod N, and x[shard_of(len(x), N, c)] is chunk c.",
            "In step s: start to send chunk (r - 1 - s) % n, receive into a buffer as long as chunk (r - 2 - s) % n, "
            "add it to that chunk of x, then wait for the send. At the end return x[shard_of(len(x), n, r)].",
        ),
    ),
    Exercise(
        "06.2",
        "I",
        "minitrain.comm.ring:ring_all_gather",
        ranks=3,
        hints=(
            "The same circle as in reduce-scatter, but what arrives is complete: it replaces what stands there.",
            "Rank r sends its own chunk r first. What arrives from the left is chunk r - 1, and that it sends next.",
            "In step s: start to send chunk (r - s) % n, receive straight into chunk (r - 1 - s) % n of x, wait for "
            "the send.",
        ),
    ),
    Exercise(
        "06.3",
        "P",
        "check:equal_size",
        hints=(
            "Set the two formulas equal. alpha stands on both sides with another factor, and so does M beta.",
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
        hints=(
            "Run the check, and compare what stands in the ranks' arrays: what has moved by one?",
            "Which chunk has a rank just received, and which one does it pass on?",
            "Every rank passes on the chunk of the same step, the one that has arrived: x[shard_of(len(x), n, step)].",
        ),
    ),
)
