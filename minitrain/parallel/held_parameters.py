"""How each rank holds each parameter of a divided model, and for which layer.

    divided along axis 1 into 12      a shard of it
    whole                             all of it: the bias after a row layer
    inside, residual, enter, ...      all of it, because the plan's method of that name was called for its layer

The gradient of a parameter that is held whole is the same on every rank, or a partial sum on each. Layers that share a
parameter must agree on this.
"""

from collections.abc import Sequence

from ..errors import UserError
from ..nn import Module, Parameter
from .plan_checks import path_of


class HeldParameters:
    """The record of one plan. sequence: whether the plan is for sequence parallel."""

    def __init__(self, sequence: bool) -> None:
        self.sequence = sequence
        self.held: dict[Parameter, tuple[str, str]] = {}  # parameter -> how it is held, for which layer

    def record(self, parameters: Sequence[Parameter], how: str, layer: Module | None) -> None:
        """Record how parameters are held. Raise UserError if two layers need one parameter held differently."""
        kind = lambda how: how if how.startswith("divided") else self._has_part(how)
        for p in parameters:
            name = path_of(layer or p)
            before, other = self.held.setdefault(p, (how, name))
            if kind(before) != kind(how):
                raise UserError(
                    f"{p.placement.path} is {spoken(before, other)} in {other} and {spoken(how, name)} in {name}, but "
                    "both share it.\n"
                    "Name both the same way, or give each a weight of its own"
                )

    def of(self, p: Parameter) -> tuple[str, str]:
        """Return how p is held, and for which layer; residual if no layer declares it."""
        return self.held.get(p, ("residual", p.placement.path))

    def partial(self, p: Parameter) -> bool:
        """Return whether each rank has only a partial gradient of this parameter, which is whole on every rank."""
        return self._has_part(self.of(p)[0])

    def _has_part(self, how: str) -> bool:
        """Return whether each rank has only a partial gradient of a parameter that is held this way."""
        return how in ("inside", "enter") or (self.sequence and how in ("residual", "whole"))


def spoken(how: str, layer: str) -> str:
    """Describe how a parameter is held, in terms of `shard`, for a message."""
    if how.startswith("divided"):
        return how
    return f"the bias after plan.row({layer})" if how == "whole" else f"plan.{how}"
