"""The exercises of this lesson."""

from minitrain.lessons.manifest import Exercise, Fault

EXERCISES = (
    Exercise(
        "14.1",
        "I",
        "minitrain.parallel.pipeline_schedules:gpipe",
        ranks=4,
        hints=(
            "A list of instructions does not mention waiting: the interpreter waits when it needs a message. What "
            "does rank 2 do, in which order? Does rank 0 do anything else?",
            'The forward of micro-batch i is Do("F", i). All forwards come first, i = 0 .. m-1, then all backwards.',
            'A list of Do("F", i) for i in range(m), followed by one of Do("B", i), the same on every rank.',
        ),
    ),
    Exercise(
        "14.2",
        "I",
        "minitrain.parallel.pipeline_schedules:one_forward_one_backward",
        ranks=4,
        hints=(
            "Read the timeline row by row. The last rank alternates from the start. How many forwards does the rank "
            "before it run first? And rank 0?",
            "Three parts: w = min(m, p-r-1) forwards; then pairs of a forward and a backward, while there are "
            "forwards; then the remaining backwards. How many pairs are there?",
            'F0 .. F(w-1); then for i in range(m - w): Do("F", w + i), Do("B", i); then Do("B", i) for the last w.',
        ),
    ),
    Exercise(
        "14.3",
        "P",
        "check:micro_batches",
        own={"p": range(17, 100), "percent": range(3, 30)},
        hints=(
            "The idle part of the time is (p-1) / (m+p-1). Set it equal to percent / 100.",
            "For 10 percent: 10 (p-1) = m+p-1, so m = 9 (p-1).",
            "m = (p-1) (100 - percent) / percent, rounded up to a whole number, and at least 1.",
        ),
    ),
    Exercise(
        "14.4",
        "B",
        "lesson:train",
        ranks=3,
        planted="4_as_given.py",
        together="it trains with the check's data and clock",
        hints=(
            "There are two mistakes, both in the loop over updates. One changes the size of the gradient, the other "
            "the weights that the micro-batches see.",
            "By what must the loss of a micro-batch be divided, so that the losses add up to that of the batch? And "
            "how often are the weights updated for one batch?",
            "Leave batch.where as the loader made it; give the whole batch to compute_gradients once, with m "
            "micro-batches, and make one update.step after it.",
        ),
        faults=(
            Fault(
                "4_loss_of_the_micro_batch.py",
                (
                    "There is one mistake, in the loop over updates. It changes the size of the gradient.",
                    "By what must the loss of a micro-batch be divided, so that the losses add up to that of the "
                    "batch?",
                    "Leave batch.where as the loader made it: B is the number of images in the whole batch.",
                ),
            ),
            Fault(
                "4_updated_mid_batch.py",
                (
                    "There is one mistake, in the loop over updates. It changes the weights that the micro-batches "
                    "see.",
                    "How often are the weights updated for one batch? Which weights does its second half see?",
                    "Give the whole batch to compute_gradients once, with m micro-batches, and make one update.step "
                    "after it.",
                ),
            ),
            Fault(
                "4_divided_again.py",
                (
                    "There is one mistake, in the loop over updates. It changes the size of the gradient.",
                    "compute_gradients adds up the losses of the micro-batches. By what is each of them divided?",
                    "Leave batch.where as the loader made it: its loss is already a mean over all images of the batch.",
                ),
            ),
        ),
    ),
)
