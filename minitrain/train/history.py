"""What a run was like, row by row: of each epoch, or of so many updates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


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
