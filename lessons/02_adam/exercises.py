"""The exercises of this lesson."""

from itertools import product

from minitrain.lessons.manifest import Exercise, Fault

EXERCISES = (
    Exercise(
        "02.1",
        "I",
        "minitrain.optim.rules:adam_step",
        hints=(
            "Follow the docstring's three lines of formulas in order. In the first update t is 1, and m and v are 0.",
            "w, m and v are pieces of larger arrays: change them with *=, += and -=, and never assign new arrays to "
            "these names. m_hat and v_hat are temporary: m and v themselves stay uncorrected.",
            "m *= beta1; m += (1 - beta1) * g; v likewise with g * g; finally w -= lr * m_hat / (xp.sqrt(v_hat) + "
            "epsilon).",
        ),
    ),
    Exercise(
        "02.2",
        "I",
        "minitrain.optim.rules:adamw_step",
        hints=(
            "Which of the two terms of the formula does `adam` compute?",
            "The weight shrinks by the factor 1 - lr weight_decay; the gradient is not involved.",
            "w *= 1 - lr * weight_decay, then adam(...) with all of its arguments, in order.",
        ),
    ),
    Exercise(
        "02.3",
        "P",
        "check:adam_bytes",
        own={"sizes": tuple(product(range(24, 96, 3), range(11, 50), range(5, 10)))},
        hints=(
            "Count the parameters first: between n and m values, W has n m of them and b has m.",
            "How many arrays of the size of the parameters does Adam keep from one update to the next?",
            "m and v: two numbers per parameter, 4 bytes each.",
        ),
    ),
    Exercise(
        "02.4",
        "B",
        "lesson:step_sizes",
        planted="4_as_given.py",
        hints=(
            "Two things differ from the lesson's equations. One shows in early updates, the other with tiny gradients.",
            "Which beta belongs to v? Is epsilon added to v_hat or to its square root?",
            "sqrt(1e-12 + 1e-8) is 1e-4, but sqrt(1e-12) + 1e-8 is 1e-6: epsilon belongs outside the root. v_hat is "
            "v / (1 - beta2**t).",
        ),
        faults=(
            Fault(
                "4_beta1_for_v.py",
                (
                    "One thing differs from the lesson's equations. It shows in early updates.",
                    "Both m and v are corrected. Which of the two betas belongs to which?",
                    "v is a mean over more updates than m: v_hat is v / (1 - beta2**t).",
                ),
            ),
            Fault(
                "4_epsilon_inside.py",
                (
                    "One thing differs from the lesson's equations. It shows with tiny gradients.",
                    "Is epsilon added to v_hat or to its square root?",
                    "sqrt(1e-12 + 1e-8) is 1e-4, but sqrt(1e-12) + 1e-8 is 1e-6: epsilon belongs outside the root.",
                ),
            ),
            Fault(
                "4_memory_changed.py",
                (
                    "What comes back is right. Call the function twice with the same array.",
                    "Which array does Adam use in the next update, and what has happened to it?",
                    "v /= c changes v itself, which is Adam's state. v_hat = v / (1 - beta2**t) is a new array.",
                ),
            ),
        ),
    ),
)
