"""What the ranks hold, as text and as a picture. stages: for each stage the runs of all ranks, of lesson.py."""

from itertools import accumulate
from typing import Any

import numpy as np

from minitrain.lessons.charts import FILLS, figure


def held(stages: list[list[Any]], stage: int, rank: int) -> dict[str, float]:
    """kind -> how many M of it the rank holds. M is all that data parallel holds of parameters."""
    M = stages[0][0].held["parameters"]
    return {kind: size / M for kind, size in stages[stage][rank].held.items()}


def curve(stages: list[list[Any]], stage: int) -> list[float]:
    """How many M of gradients rank 0 holds, after each change in the last update."""
    return [size / stages[0][0].held["parameters"] for size in stages[stage][0].gradients]


def bars(stages: list[list[Any]]) -> str:
    """A bar for each stage and rank. A letter is the kind's first one: p, g, o; eight of them are M."""
    lines = ["held after the optimizer's step, in M (p: parameters, g: gradients, o: state)"]
    for stage, ranks in enumerate(stages):
        for rank in range(len(ranks)):
            mine = held(stages, stage, rank)
            ends = [0, *(round(8 * end) for end in accumulate(mine.values()))]
            bar = "".join(kind[0] * (hi - lo) for kind, lo, hi in zip(mine, ends, ends[1:], strict=False))
            lines.append(f"stage {stage}, rank {rank} |{bar} {sum(mine.values()):.2f}")
    return "\n".join(lines)


def draw(stages: list[list[Any]], path: str) -> None:
    """What rank 0 holds at each stage, and its gradients during one update."""
    with figure(path, columns=2) as (left, right):
        names, below = [f"stage {s}" for s in range(len(stages))], np.zeros(len(stages))
        for kind, fill in zip(held(stages, 0, 0), FILLS[:3], strict=True):
            heights = np.array([held(stages, s, 0)[kind] for s in range(len(stages))])
            left.bar(names, heights, bottom=below, label=kind, width=0.6, color=fill)
            below += heights
        for x, total in enumerate(below):
            left.text(x, total + 0.05, f"{total:.2f}", ha="center")
        M = stages[0][0].held["parameters"]
        left.set(ylabel="held by rank 0 after the step, in M", xlabel=f"M: {M:,} bytes, all parameters")
        left.legend()
        for s in (2, 1):
            one = curve(stages, s)
            right.step(np.linspace(0, 1, len(one)), one, where="post", label=names[s])
        right.set(ylabel="gradients of rank 0, in M", xlabel="one update", xticks=(0, 1), xticklabels=("start", "end"))
        right.legend()
