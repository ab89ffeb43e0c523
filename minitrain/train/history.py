"""What a run was like, epoch by epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class History:
    """One number an epoch in each list; those of the validation are empty when there was none."""

    loss: list[float] = field(default_factory=list)
    """Mean training loss, of each sample just before the update that it took part in."""
    rate: list[float] = field(default_factory=list)
    """Learning rate of the epoch's last update."""
    validation_loss: list[float] = field(default_factory=list)
    """Mean loss on the validation data, after the epoch."""
    accuracy: list[float] = field(default_factory=list)
    """Share of the validation data whose most probable class is their label, after the epoch."""

    def add(self, row: Sequence[float]) -> None:
        """The numbers of one more epoch, in the order above; two of them without a validation."""
        epochs, lists = len(self.loss), (self.loss, self.rate, self.validation_loss, self.accuracy)
        if len(row) > 2 or self.validation_loss:  # epochs without a validation have NaN, so that the lists stay even
            row = [*row, *[math.nan] * (len(lists) - len(row))]
            for numbers in lists[2:]:
                numbers += [math.nan] * (epochs - len(numbers))
        for numbers, number in zip(lists, row, strict=False):
            numbers.append(number)

    @property
    def best(self) -> int:
        """The epoch with the smallest validation loss (training loss without one), counted from 0; of equals the first.

        A loss that is no number, since half precision overflowed in a whole epoch, is never the smallest.
        Raises ValueError when there was no epoch.
        """
        losses = [math.inf if math.isnan(loss) else loss for loss in self.validation_loss or self.loss]
        return losses.index(min(losses))

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return len(self.loss) - 1 - self.best

    def line(self) -> str:
        """The last epoch, in less than 70 columns."""
        shown = f"loss {self.loss[-1]:.3f}  rate {self.rate[-1]:.2e}"
        if self.validation_loss:
            shown += f"  validation loss {self.validation_loss[-1]:.3f}  accuracy {self.accuracy[-1]:.3f}"
        return shown
