"""What a run was like, row by row: of each epoch, or of so many updates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real

from ..errors import UserError, check_state, shown


@dataclass
class History:
    """One number a row in each list; those of what was never looked at are empty."""

    loss: list[float] = field(default_factory=list)
    """Mean training loss, of each label just before the update that it took part in."""
    rate: list[float] = field(default_factory=list)
    """Learning rate of the row's last update."""
    validation_loss: list[float] = field(default_factory=list)
    """Mean loss on the validation data, after the row's updates."""
    accuracy: list[float] = field(default_factory=list)
    """Share of the validation data whose most probable class is their label, where a sample has one label."""

    def add(self, row: Sequence[float]) -> None:
        """One more row, in the order above; two numbers without a validation, three without an accuracy.

        A list that has begun goes on with NaN where there is no number, so that equal places belong together.
        """
        rows = len(self.loss)
        for place, numbers in enumerate((self.loss, self.rate, self.validation_loss, self.accuracy)):
            if place < len(row) or numbers:
                numbers += [math.nan] * (rows - len(numbers))
                numbers.append(row[place] if place < len(row) else math.nan)

    def state_dict(self) -> dict[str, list[float]]:
        """The lists by their names, as copies."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Go on from there. Raise UserError for what is no history."""
        check_state("the state of the history", state, vars(self))
        rows = len(state["loss"]) if isinstance(state["loss"], list) else 0
        for name, numbers in state.items():
            of_numbers = isinstance(numbers, list) and all(
                isinstance(x, Real) and not isinstance(x, bool) for x in numbers
            )
            may_be_empty = name in ("validation_loss", "accuracy")
            if not of_numbers or not (len(numbers) == rows or (may_be_empty and not numbers)):
                raise UserError(
                    f"{name} in the state of the history is {shown(numbers)}; it must be a list of {rows} numbers"
                )
        for name, numbers in state.items():
            setattr(self, name, list(numbers))

    @property
    def best(self) -> int:
        """The row with the smallest validation loss (training loss without one), counted from 0; of equals the first.

        A loss that is no number, since half precision overflowed in all of its batches, is never the smallest.
        Raises ValueError when there is no row.
        """
        losses = [math.inf if math.isnan(loss) else loss for loss in self.validation_loss or self.loss]
        return losses.index(min(losses))

    @property
    def waited(self) -> int:
        """Rows since the best one."""
        return len(self.loss) - 1 - self.best

    def line(self) -> str:
        """The last row, in less than 70 columns."""
        shown = f"loss {self.loss[-1]:.3f}  rate {self.rate[-1]:.2e}"
        if self.validation_loss:
            shown += f"  validation loss {self.validation_loss[-1]:.3f}"
        if self.accuracy:
            shown += f"  accuracy {self.accuracy[-1]:.3f}"
        return shown
