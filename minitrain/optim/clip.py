"""Clipping by the global norm."""

from collections.abc import Iterable

from ..errors import check_number
from ..nn import Parameter
from .pieces import Alone, Slices


def clip_grad_norm(gradients: Slices | Iterable[Parameter], limit: float) -> float:
    """Shortens the gradient of the whole logical model to `limit` if it is longer: g = g min(1, limit / |g|).

    Returns the length it had. One factor for all, so the direction stays, and it is all that is noted: see optim/.
    (A list of parameters has no place for it: their gradients are multiplied.) After the loss scale has been taken out.
    Raises UserError unless limit is above 0.
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """
    check_number("limit", limit, "above 0")
    if isinstance(gradients, Iterable):
        alone = Alone(gradients)
        norm = alone.norm()
        for p in alone.parameters if norm > limit else ():
            p.grad = None if p.grad is None else p.grad * p.dtype.type(limit / norm)
        return norm
    norm = gradients.norm()
    if norm > limit:
        gradients.factor *= limit / norm
    return norm
