"""The exercises of this lesson."""

from lessons.manifest import Exercise

EXERCISES = (
    Exercise(
        "00.1",
        "I",
        "minitrain.runtime.output:print_in_order",
        ranks=3,
        hints=(
            "Only one process may write, and it needs the texts of all first: which method of world brings them?",
            "world.gather_objects(text) gives every rank a list of all texts, in the order of the ranks. Every rank "
            "has to call it, also those that print nothing.",
            'texts = world.gather_objects(text); then, on rank 0: print("\\n".join(texts), file=file, flush=True).',
        ),
    ),
    Exercise(
        "00.2",
        "B",
        "lesson:swap",
        ranks=3,
        planted="2_as_given.py",
        hints=(
            "Write down, for each rank, the line that it stands at, and whom it waits for there. Is that a circle?",
            "A large message leaves only when its receiver stands in receive. Nobody comes to receive before its own "
            "message has left.",
            "send only starts the sending. Receive first, and then wait() for the handle that send has given.",
        ),
    ),
    Exercise(
        "00.3",
        "P",
        "check:printed",
        hints=(
            "Make a table: a column for each rank, a row for each line of the program, in it the value of mine.",
            "Only rank 2 takes the branch. gather_objects gives every rank the values that all have at that line.",
            "In Python, everyone[-1] is the last element: rank 0 adds the value of the last rank.",
        ),
    ),
)
