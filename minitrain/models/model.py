"""A model is a list of units: `unit(x, batch) -> x`.

The last unit returns the loss, or the logits when the batch has no labels. Nothing here knows about ranks: a pipeline
stage is a slice of the list, and `shard` says how the layers inside the units may be divided.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..autograd import Tensor
from ..data.batch import Batch
from ..errors import UserError, shown
from ..nn import Module, Parameter, check_paths, pass_through

if TYPE_CHECKING:
    from ..parallel.reducer import Reducer


Loop = Callable[["Model", Sequence[Batch], "Reducer", Callable[[Tensor], Tensor]], float]  # see train/step.py
DTYPES = ("float32", "float64")  # in which models can be trained


class Units(Module):
    """Units applied one after the other: a whole model, or a segment of one (parallel/recompute.py)."""

    def __init__(self, units: list[Module]) -> None:
        self.units = units

    def unrolled(self) -> list[Module]:
        """Its units, with those of segments in the place of these."""
        return [inner for unit in self.units for inner in unit.unrolled()]

    def through(self, x: Tensor | None, batch: Batch) -> Tensor:
        """What the units make of x; nothing goes into the first unit of a whole model."""
        return pass_through(self.units, x, batch)

    def children(self):  # type: ignore[no-untyped-def]
        """(position, unit)."""
        yield from ((str(i), unit) for i, unit in enumerate(self.units))

    def parameters(self) -> list[Parameter]:
        """In the order of first use in the forward, a shared one once."""
        return list(dict.fromkeys(p for unit in self.units for p in unit.parameters()))


class Model(Units):
    """A whole model, or a stage of a pipeline. Raises UserError for two layers, or two parameters, with one path."""

    def __init__(self, units: list[Module]) -> None:
        for unit in units:
            if not isinstance(unit, Module):
                raise UserError(f"a unit of the model is {shown(unit)}; units are Modules, called as unit(x, batch)")
        super().__init__(units)
        check_paths(self)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of the batch (its part of the global mean), or the logits when it has no labels."""
        return self.through(None, batch)

    def trial(self, batch: Batch) -> Tensor:
        """The same, in a forward that leaves no trace in the model."""
        return self(batch)

    def parts(self) -> list["Model"]:
        """What micro-batches go through at one go: the model itself, or each of the chunks of a pipeline."""
        return [self]

    def train(
        self, loop: Loop, micros: Sequence[Batch], gradients: "Reducer", scale: Callable[[Tensor], Tensor]
    ) -> float:
        """Forwards and backwards of these micro-batches, by the loop of train/step.py; returns the loss of all.

        scale: what is done to a loss before backward (precision.Scaler).
        """
        return loop(self, micros, gradients, scale)
