"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

NOBODY_RECEIVES = (
    "Write down, for each rank, the line where it waits and the rank that it waits for. Is that a circle?",
    "A large message is sent only when its receiver has called receive. No rank calls receive before its own "
    "message is sent.",
    "send only starts the transfer. Call receive first, and then wait() on the handle that send returned.",
)

EXERCISES = (
    Exercise(
        "00.1",
        "I",
        "minitrain.runtime.output:print_in_order",
        ranks=3,
        together="it writes to a file object of the check",
        hints=(
            "Only one process may print, and it first needs the texts of all: which method of world brings them?",
            "world.gather_objects(text) gives every rank a list of all texts, in rank order. Every rank has to call "
            "it, even those that print nothing.",
            'texts = world.gather_objects(text); then, on rank 0: print("\\n".join(texts), file=file, flush=True).',
        ),
    ),
    Exercise(
        "00.2",
        "B",
        "lesson:swap",
        ranks=3,
        planted="2_as_given.py",
        hints=NOBODY_RECEIVES,
        faults=(
            Fault("2_as_given.py", NOBODY_RECEIVES),
            Fault(
                "2_receives_first.py",
                (
                    "Write down, for each rank, the line where it waits and the rank that it waits for. Who has sent "
                    "anything by then?",
                    "receive returns when the message has arrived. Which line of which rank would have to run first?",
                    "send only starts the transfer and returns a handle at once. Call send first, then receive, and "
                    "then wait() on the handle.",
                ),
            ),
            Fault(
                "2_backwards.py",
                (
                    "Draw the ring of three ranks, with an arrow for each message. Compare it with the docstring.",
                    "To which rank must rank 0 send, and from which one does it receive? Do both lines agree with "
                    "that?",
                    "The next rank is (world.rank + 1) % world.size: send to it, and receive from "
                    "(world.rank - 1) % world.size.",
                ),
            ),
        ),
    ),
    Exercise(
        "00.3",
        "P",
        "check:printed",
        own={"ranks": range(5, 17)},
        hints=(
            "Make a table of the value of mine: a column for each rank, a row for each line of the program.",
            "Only rank 2 takes the branch. gather_objects gives every rank the values of all ranks at that line.",
            "In Python, everyone[-1] is the last element: rank 0 adds the value of the last rank.",
        ),
    ),
)
