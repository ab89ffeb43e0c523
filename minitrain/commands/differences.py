"""How far two training runs are from each other, step by step and tensor by tensor, and how to show it.

A tensor a from b, which is right: max|a - b| / max(max|b|, 1e-3 x the largest |b| of all tensors of its kind). An
elementwise ratio would mean nothing: some true gradients are 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]
NAME = 44  # columns for a parameter's path
MOST = 12  # paths in a list
WRONG = """What the checks of the first steps cannot see:
- Between a column and a row a rank has a part of the columns: a softmax, a mean
  or a norm over them is not that over all.
- Columns are cut as they lie: of gate|up or q|k|v in one flat matrix (D, 2 F)
  a rank gets others than it takes them for. Give the matrix the shape (D, 2, F)
  and say plan.column(it, axis=1). Nor are two columns, put behind each other,
  what one row multiplies: give each a row of its own.
- A constant for each head or column: every rank has that of the first ones.
  Make it a frozen Parameter, and say plan.split(it, axis).
- A layer that is whole, and takes x to where columns are, is plan.enter.
- A parameter used between column and row and elsewhere, too: make it two.
- A row's result is a sum over its rows: a norm of its weight over them is not.
- With --sp, a layer that looks at several positions is plan.everywhere.
- A loss is a sum over samples / batch.where.count."""
UNUSED = """
equal to one process, within {bound}, in what these {steps} use: loss,
gradients and parameters. Of the parameters below the gradient was 0 in all of
them, which shows nothing: give more --steps, or a make_batch(number) for them"""


class Step(NamedTuple):
    """What a step leaves behind: the gradients of the global batch, and the parameters after the update."""

    loss: float
    gradients: Tensors
    parameters: Tensors


class Apart(NamedTuple):
    """How far a step on the mesh is from that on one process: on that rank where it is farthest."""

    loss: float
    gradients: dict[str, float]
    parameters: dict[str, float]

    @property
    def most(self) -> tuple[float, float, float]:
        """Of each kind the largest difference."""
        return self.loss, max(self.gradients.values(), default=0.0), max(self.parameters.values())


def apart(a: Step, b: Step) -> Apart:
    """Of a step on the mesh from that on one process."""
    loss = ratio(abs(a.loss - b.loss), abs(b.loss))
    return Apart(loss, differences(a.gradients, b.gradients), differences(a.parameters, b.parameters))


def differences(a: Tensors, b: Tensors) -> dict[str, float]:
    """Of each tensor. One that only one of the two has is infinitely far, and so is NaN."""
    floor = 1e-3 * max((size(x) for x in b.values()), default=0.0)
    return {
        path: ratio(size(a[path] - b[path]), max(size(b[path]), floor)) if path in a and path in b else math.inf
        for path in {**b, **a}
    }


def size(x: np.ndarray) -> float:
    """The largest element."""
    return float(np.abs(x.astype(np.float64)).max()) if x.size else 0.0


def ratio(a: float, b: float) -> float:
    return 0.0 if a == 0 else a / b if math.isfinite(a) and b > 0 else math.inf


def farthest(ranks: Sequence[Apart]) -> Apart:
    """Of every difference the largest on any rank."""
    losses, gradients, parameters = zip(*ranks, strict=True)
    return Apart(
        max(losses), *({path: max(x[path] for x in kind) for path in kind[0]} for kind in (gradients, parameters))
    )


def first_beyond(found: Sequence[Apart], bound: float) -> int | None:
    """The first step in which anything differs."""
    return next((number for number, step in enumerate(found) if max(step.most) > bound), None)


# What is shown --------------------------------------------------------------------------------------------------------


def table(losses: Sequence[tuple[float, float]], found: Sequence[Apart]) -> str:
    """The steps."""
    lines = [f"\n{'':<6}{'loss on':<18}{'loss on':<18}largest difference of the", f"{'step':<6}{'one process':<18}"]
    lines[1] += f"{'the mesh':<18}{'loss':>9}{'gradients':>12}{'parameters':>12}"
    for number, ((b, a), step) in enumerate(zip(losses, found, strict=True)):
        loss, gradients, parameters = step.most
        lines.append(f"{number:<6}{b:<18.12g}{a:<18.12g}{short(loss):>9}{short(gradients):>12}{short(parameters):>12}")
    return "\n".join(lines)


def parameters(found: Sequence[Apart], bound: float) -> str:
    """A line for each, in the model's order. A frozen one has no gradient."""
    lines = [
        f"\n{'':<{NAME}}gradient of   of all of the",
        f"{'largest difference':<{NAME}}{'step 0':<14}steps  parameter",
    ]
    for path in found[0].parameters:
        first, most = (max(x.gradients.get(path, math.nan) for x in part) for part in (found[:1], found))
        data = max(x.parameters[path] for x in found)
        mark = "  <--" if most > bound or data > bound else ""
        name = path if len(path) < NAME else f"..{path[3 - NAME :]}"
        lines.append(f"{name:<{NAME}}{short(first):<9}{short(most):>10}{short(data):>11}{mark}")
    return "\n".join(lines)


def listed(heading: str, paths: Sequence[str]) -> str:
    """A line for each path, of many the first."""
    more = [f"  and {len(paths) - MOST} more"] if len(paths) > MOST else []
    return "\n".join([heading, *(f"  {path}" for path in paths[:MOST]), *more])


def short(x: float) -> str:
    """In 5 characters."""
    return "-" if math.isnan(x) else "0" if x == 0 else f"{x:.0e}"


def verdict(found: Sequence[Apart], bound: float, unused: Sequence[str] = ()) -> str:
    """The last lines; where something differs, the parameters that do so most in the first such step.

    unused: parameters whose gradient was 0 in all steps, about which nothing is known.
    """
    number = first_beyond(found, bound)
    if number is None:
        steps = f"{len(found)} step(s)"
        if unused:
            return listed(UNUSED.format(bound=f"{bound:g}", steps=steps), unused)
        return f"\nequal to one process, within {bound:g}: loss, gradients, parameters of {steps}"
    step, lines = found[number], [f"\nDIFFERS from one process in step {number}:"]
    kinds = zip(("loss", "gradients", "parameters"), step.most, strict=True)
    lines.append(f"  {', '.join(f'{kind} by {short(x)}' for kind, x in kinds if x > bound)}")
    for kind, far in (("gradients", step.gradients), ("parameters", step.parameters)):
        worst = sorted((path for path, x in far.items() if x > bound), key=lambda path: -far[path])
        if worst:
            lines += [f"  most of all the {kind}", *(f"    {path}  {short(far[path])}" for path in worst[:3])]
            break
    return "\n".join([*lines, WRONG])
