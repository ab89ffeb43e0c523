"""Clipping by the global norm."""

from collections.abc import Iterable

from ..errors import check_number
from ..nn import Parameter
from .pieces import Alone, Slices


def clip_grad_norm(reducer: Slices | Iterable[Parameter], limit: float) -> float:
    """Clip the gradient of the whole logical model to norm `limit`: g = g min(1, limit / |g|). Return the old |g|.

    All gradients share one coefficient, so the direction is kept. With a reducer, only its `factor` changes (see
    optim/); with a list of parameters, their gradients are scaled. Call it after dividing by the loss scale.
    Raise UserError unless limit is above 0.
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063,
    algorithm 1.
    """
    check_number("limit", limit, "above 0")
    if isinstance(reducer, Iterable):
        alone = Alone(reducer)
        norm = alone.norm()
        for p in alone.parameters if norm > limit else ():
            p.grad = None if p.grad is None else p.grad * p.dtype.type(limit / norm)
        return norm
    norm = reducer.norm()
    if norm > limit:
        reducer.factor *= limit / norm
    return norm
