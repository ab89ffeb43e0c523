"""Find the layer that first makes a loss NaN or infinite."""

import numpy as np

from ..autograd import no_grad
from ..backend import is_finite
from ..data.batch import Batch
from ..nn import Module, watching
from ..tensor import Tensor
from .policy import Precision


def first_bad_layer(model: Module, batch: Batch) -> str | None:
    """Return the path of the first unit whose output on this batch is not finite in float32; None if all are finite.

    Each rank returns its own result. All ranks that hold part of the model must call this.
    """
    found: list[str] = []

    def watch(path: str, x: Tensor | None, y: Tensor) -> None:
        if not found and not is_finite(y.data):
            found.append(path)

    used = next((module.precision for module in model.modules() if module.precision is not None), Precision())
    with no_grad(), watching(watch), used.in_full(), np.errstate(over="ignore", invalid="ignore"):
        model(batch)
    return found[0] if found else None
