"""A model is a list of units: `unit(x, batch) -> x`.

The last unit returns the loss, or the logits if the batch has no labels. Nothing here knows about ranks: a pipeline
stage is a slice of the list, and `shard` says how the layers inside a unit may be divided.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..data.batch import Batch
from ..errors import UserError, shown
from ..nn import Dropout, Module, Parameter, pass_through
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..parallel.reducer import Reducer


Loop = Callable[["Model", Sequence[Batch], "Reducer", Callable[[Tensor], Tensor]], float]  # see train/step.py
DTYPES = ("float32", "float64")  # dtypes in which a model can be built and trained


class Sequential(Module):
    """Units applied in sequence: a whole model, or a segment of one (parallel/recompute.py)."""

    def __init__(self, units: list[Module]) -> None:
        self.units = units

    def unrolled(self) -> list[Module]:
        """Return the units, with each segment replaced by its own units."""
        return [inner for unit in self.units for inner in unit.unrolled()]

    def through(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Apply the units to x (B, ...), which is None for the first unit of a whole model."""
        return pass_through(self.units, x, batch)

    def children(self):  # type: ignore[no-untyped-def]
        """Yield (position, unit)."""
        yield from ((str(i), unit) for i, unit in enumerate(self.units))

    def parameters(self) -> list[Parameter]:
        """Return the parameters in the order of first use in the forward; a shared one appears once."""
        return list(dict.fromkeys(p for unit in self.units for p in unit.parameters()))


class Model(Sequential):
    """A whole model, or one stage of a pipeline.

    Raise UserError if a unit is not a Module, or if two parameters or two dropouts have the same path.
    """

    def __init__(self, units: list[Module]) -> None:
        for unit in units:
            if not isinstance(unit, Module):
                raise UserError(f"a unit of the model is {shown(unit)}; units are Modules, called as unit(x, batch)")
        super().__init__(units)
        check_paths(self)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of the batch (its contribution to the global mean), or the logits if it has no labels."""
        return self.through(None, batch)

    def trial(self, batch: Batch) -> Tensor:
        """Run the forward like `__call__`, leaving no trace in the model."""
        return self(batch)

    def parts(self) -> list["Model"]:
        """Return the parts that each run in one piece: the model itself, or the chunks of a pipeline."""
        return [self]

    def train(
        self, loop: Loop, micros: Sequence[Batch], reducer: "Reducer", scale: Callable[[Tensor], Tensor]
    ) -> float:
        """Run the forwards and backwards of these micro-batches with the loop of train/step.py; return their total
        loss.

        scale: applied to each loss before backward (precision.Scaler).
        """
        return loop(self, micros, reducer, scale)


def check_paths(model: Module) -> None:
    """Raise UserError if two parameters, or two dropouts, have the same path: the path keys their random numbers."""
    found: dict[str, Any] = {}
    keyed = [("parameters", p.placement.path, p) for p in model.parameters()]
    keyed += [("dropouts", m.path, m) for m in model.modules() if isinstance(m, Dropout)]  # type: ignore[misc]
    for kind, path, thing in keyed:
        if found.setdefault(f"{kind} {path}", thing) is not thing:
            raise UserError(
                f"two {kind} have the path {path!r}, which keys their random numbers: both would draw the same ones.\n"
                "Give each its own path, or use the same object twice to share it"
            )
