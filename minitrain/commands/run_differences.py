"""Measure and show how far apart two training runs are, step by step and tensor by tensor.

The distance of a tensor a from the correct value b is max|a - b| / max(max|b|, 1e-3 x the largest |b| of all tensors of
its kind, gradients or parameters). An elementwise ratio would be meaningless, because some correct gradients are 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]
NAME = 44  # columns for a parameter's path
MOST = 12  # paths in a list
WRONG = """The checks of the first steps cannot see these mistakes:
- A softmax, mean or norm over columns, between a column and a row layer: a rank
  has only some of the columns there.
- gate|up or q|k|v in one flat matrix (D, 2 F): columns are divided in order,
  so a rank does not get those it assumes. Give the matrix the shape (D, 2, F)
  and use plan.column(it, axis=1). For the same reason, one row layer cannot
  multiply two concatenated column layers: give each a row layer of its own.
- A constant for each head or column: every rank uses the constants of the
  first ones. Make it a frozen Parameter, and use plan.split(it, axis).
- A whole layer that takes x to divided columns: name it in plan.enter.
- A parameter used both between column and row and elsewhere: use two instead.
- A norm over the rows of a row layer's weight: a rank has only some of them.
- With --sp, a layer that mixes positions: name it in plan.everywhere.
- A loss that is not a sum over samples / batch.where.count."""
UNUSED = """
equal to one process, within {bound}, in all that these {steps} use: loss,
gradients and parameters. The parameters below were not tested, because their
gradients were always 0: give more --steps, or a make_batch(number) for them"""


class Step(NamedTuple):
    """The loss and the gradients of the global batch, and the parameters after the update."""

    loss: float
    gradients: Tensors
    parameters: Tensors


class Apart(NamedTuple):
    """Distances of a step on the mesh from the step on one process: the largest over the ranks."""

    loss: float
    gradients: dict[str, float]
    parameters: dict[str, float]

    @property
    def most(self) -> tuple[float, float, float]:
        """Return the largest distance of each kind."""
        return self.loss, max(self.gradients.values(), default=0.0), max(self.parameters.values())


def apart(a: Step, b: Step) -> Apart:
    """Return the distances of a (mesh) from b (one process)."""
    loss = ratio(abs(a.loss - b.loss), abs(b.loss))
    return Apart(loss, differences(a.gradients, b.gradients), differences(a.parameters, b.parameters))


def differences(a: Tensors, b: Tensors) -> dict[str, float]:
    """Return the distance of each tensor: infinite for NaN, and for a tensor that only one side has."""
    floor = 1e-3 * max((size(x) for x in b.values()), default=0.0)
    return {
        path: ratio(size(a[path] - b[path]), max(size(b[path]), floor)) if path in a and path in b else math.inf
        for path in {**b, **a}
    }


def size(x: np.ndarray) -> float:
    """Return max|x|, or 0 for an empty x."""
    return float(np.abs(x.astype(np.float64)).max()) if x.size else 0.0


def ratio(a: float, b: float) -> float:
    """Return a / b; 0 if a is 0, infinity if a is not finite or b is 0."""
    return 0.0 if a == 0 else a / b if math.isfinite(a) and b > 0 else math.inf


def farthest(ranks: Sequence[Apart]) -> Apart:
    """Return the largest of each distance over the ranks."""
    losses, gradients, parameters = zip(*ranks, strict=True)
    return Apart(
        max(losses), *({path: max(x[path] for x in kind) for path in kind[0]} for kind in (gradients, parameters))
    )


def first_beyond(found: Sequence[Apart], bound: float) -> int | None:
    """Return the first step with a distance above the bound, or None."""
    return next((number for number, step in enumerate(found) if max(step.most) > bound), None)


# Report ---------------------------------------------------------------------------------------------------------------


def table(losses: Sequence[tuple[float, float]], found: Sequence[Apart]) -> str:
    """Return a table with a row per step."""
    lines = [f"\n{'':<6}{'loss on':<18}{'loss on':<18}largest difference of the", f"{'step':<6}{'one process':<18}"]
    lines[1] += f"{'the mesh':<18}{'loss':>9}{'gradients':>12}{'parameters':>12}"
    for number, ((b, a), step) in enumerate(zip(losses, found, strict=True)):
        loss, gradients, parameters = step.most
        lines.append(f"{number:<6}{b:<18.12g}{a:<18.12g}{short(loss):>9}{short(gradients):>12}{short(parameters):>12}")
    return "\n".join(lines)


def parameters(found: Sequence[Apart], bound: float) -> str:
    """Return a table with a line per parameter, in the model's order. A frozen one has no gradient."""
    lines = [
        f"\n{'':<{NAME}}gradient  gradient",
        f"{'largest difference':<{NAME}}{'step 0':<10}all steps  parameter",
    ]
    for path in found[0].parameters:
        first, most = (max(x.gradients.get(path, math.nan) for x in part) for part in (found[:1], found))
        data = max(x.parameters[path] for x in found)
        mark = "  <--" if most > bound or data > bound else ""
        name = path if len(path) < NAME else f"..{path[3 - NAME :]}"
        lines.append(f"{name:<{NAME}}{short(first):<9}{short(most):>10}{short(data):>11}{mark}")
    return "\n".join(lines)


def listed(heading: str, paths: Sequence[str]) -> str:
    """Return the heading and a line for each of the first MOST paths."""
    more = [f"  and {len(paths) - MOST} more"] if len(paths) > MOST else []
    return "\n".join([heading, *(f"  {path}" for path in paths[:MOST]), *more])


def short(x: float) -> str:
    """Format in 5 characters; "-" for NaN."""
    return "-" if math.isnan(x) else "0" if x == 0 else f"{x:.0e}"


def verdict(found: Sequence[Apart], bound: float, unused: Sequence[str] = ()) -> str:
    """Return the last lines: that the runs are equal, or which parameters differ most in the first step that differs.

    unused: parameters that were not tested, because their gradient was 0 in every step.
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
            lines += [f"  largest differences of {kind}", *(f"    {path}  {short(far[path])}" for path in worst[:3])]
            break
    return "\n".join([*lines, WRONG])
