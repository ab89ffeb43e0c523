"""An MLP classifier: [Dense, Dense, DenseHead]."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional as F
from ..backend import accumulation_dtype, is_float
from ..data.batch import Batch
from ..errors import UserError, check_choice, check_shape, check_whole, shown
from ..nn import Linear, Module, loss_or_logits
from ..tensor import Tensor
from .model import DTYPES, Model

if TYPE_CHECKING:
    from ..parallel.plan import Plan


class Dense(Module):
    """A hidden unit of the MLP: relu(x W + b), W (I, O), b (O)."""

    def __init__(self, path: str, fan_in: int, fan_out: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, fan_out, (2 / fan_in) ** 0.5, dtype)  # He et al., 1502.01852

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Map x (B, I) to (B, O). x is None in the first unit, which reads batch.inputs."""
        return F.relu(self.cast_input("layer", self.linear(as_input(batch, self.linear) if x is None else x)))


class DenseHead(Module):
    """The last unit of the MLP: one logit per class."""

    def __init__(self, path: str, fan_in: int, classes: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, classes, (1 / fan_in) ** 0.5, dtype)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Map x (B, I) to the loss, or to the logits (B, classes) if the batch has no labels."""
        return loss_or_logits(self.linear(as_input(batch, self.linear) if x is None else x), batch)


def as_input(batch: Batch, linear: Linear) -> Tensor:
    """Return batch.inputs (B, I) as a tensor, for the first layer of an MLP.

    Raise UserError for a wrong number of features, for integers, which have no gradient, and for a float dtype other
    than the layer's unless its precision casts it: NumPy would compute in the wider one.
    """
    x, weight = batch.inputs, linear.weight
    features, dtype = weight.shape[0], accumulation_dtype(weight.dtype)  # half weights: float32
    if not x.ndim or x.shape[-1] != features:
        raise UserError(
            f"the inputs are {shown(x)}; {linear.path} takes {features} features per sample: "
            f"give inputs of shape (B, {features}), or a model of that size"
        )
    used = x.dtype if linear.precision is None else accumulation_dtype(linear.compute_dtype("linear", x.dtype))
    if used != dtype or not is_float(x.dtype):
        other = f", or a model with dtype={str(x.dtype)!r}" if str(x.dtype) in DTYPES else ""
        raise UserError(
            f"the inputs are {shown(x)}, but {linear.path} holds {dtype}: "
            f"give ArrayLoader(inputs.astype(np.{dtype}), ...){other}"
        )
    return Tensor(x)


@dataclass(frozen=True)
class MLPConfig:
    """Features per sample, hidden widths and classes of an MLP classifier. Raise UserError for invalid sizes."""

    inputs: int = 64
    hidden: tuple[int, ...] = (128, 128)
    classes: int = 10
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_shape("hidden", self.hidden)
        for name, n in (("inputs", self.inputs), ("classes", self.classes)):
            check_whole(name, n, 1)
        for n in self.hidden:
            check_whole(f"a size in hidden {self.hidden}", n, 1)
        check_choice("dtype", self.dtype, DTYPES)


def mlp(config: MLPConfig | None = None) -> Model:
    """Build an MLP, inputs -> hidden, relu -> ... -> classes; by default 64 -> 128 -> 128 -> 10."""
    c = config or MLPConfig()
    dtype, sizes = np.dtype(c.dtype), (c.inputs, *c.hidden)
    units: list[Module] = [Dense(f"dense.{i}", n, m, dtype) for i, (n, m) in enumerate(pairwise(sizes))]
    return MLP([*units, DenseHead("head", sizes[-1], c.classes, dtype)])


class MLP(Model):
    """Dense layers. Tensor parallel divides them alternately by columns and by rows."""

    def shard(self, plan: "Plan") -> None:
        """Divide the hidden layers alternately, and the head by rows if it follows columns; else it stays whole.

        Raise UserError under sequence parallel.
        """
        if plan.sequence:
            raise UserError("sequence parallel needs sequences; an MLP has none: use tensor parallel alone, sp=False")
        for i, unit in enumerate(self.units):
            linear: Linear = unit.linear  # type: ignore[attr-defined]
            if i % 2:
                plan.row(linear)
            elif i < len(self.units) - 1:
                plan.column(linear)
