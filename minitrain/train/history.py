"""The record of a run: an Update per batch, and a History with a row per epoch, or per fixed number of updates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import NamedTuple

from ..errors import UserError, check_state, shown


class Update(NamedTuple):
    """One batch: its loss, the learning rate, the norm of the gradient before clipping, its loss scale, and the number
    of labels the loss is averaged over.

    The norm is not finite if gradients overflowed in half precision; no update was made then.
    """

    loss: float
    lr: float
    norm: float
    scale: float = 1.0
    labels: int = 1

    @property
    def skipped(self) -> bool:
        """Whether the batch was skipped, without an update."""
        return not math.isfinite(self.norm)


def summed_up(updates: Iterable[Update]) -> list[float]:
    """Return [mean loss over the labels, learning rate of the last update].

    A label's loss is measured before the update it contributes to. Batches are weighted by their labels: the last batch
    of an epoch may be smaller, and labels may be ignored.
    """
    loss, labels, lr = 0.0, 0, math.nan
    for update in updates:
        lr = update.lr
        if math.isfinite(update.loss):  # the others overflowed in half precision and were skipped
            loss, labels = loss + update.loss * update.labels, labels + update.labels
    return [loss / labels if labels else math.nan, lr]


@dataclass
class History:
    """One list per quantity, with one number per row. A quantity that was never measured has an empty list."""

    loss: list[float] = field(default_factory=list)
    """Mean training loss per label, measured just before the update that each label contributes to."""
    lr: list[float] = field(default_factory=list)
    """Learning rate of the row's last update."""
    validation_loss: list[float] = field(default_factory=list)
    """Mean loss on the validation data, after the row's updates."""
    accuracy: list[float] = field(default_factory=list)
    """Fraction of the validation samples whose most probable class is their label, if a sample has one label."""

    def add(self, row: Sequence[float]) -> None:
        """Append a row, in the order above: two numbers without validation, three without accuracy.

        Once a list has been started, it gets NaN for a row without a number, so that indices agree between lists.
        """
        rows = len(self.loss)
        for place, numbers in enumerate((self.loss, self.lr, self.validation_loss, self.accuracy)):
            if place < len(row) or numbers:
                numbers += [math.nan] * (rows - len(numbers))
                numbers.append(row[place] if place < len(row) else math.nan)

    def state_dict(self) -> dict[str, list[float]]:
        """Return copies of the lists, by name."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restore the lists of state_dict(). Raise UserError for any other state."""
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
        """Index of the first row with the smallest validation loss, or training loss if there is no validation.

        A NaN loss, from a row in which half precision overflowed in every batch, is never the smallest. Raise
        ValueError if there are no rows.
        """
        losses = [math.inf if math.isnan(loss) else loss for loss in self.validation_loss or self.loss]
        return losses.index(min(losses))

    @property
    def waited(self) -> int:
        """Number of rows since the best one."""
        return len(self.loss) - 1 - self.best

    def line(self) -> str:
        """Return the last row as text, in fewer than 70 columns."""
        shown = f"loss {self.loss[-1]:.3f}  rate {self.lr[-1]:.2e}"
        if self.validation_loss:
            shown += f"  validation loss {self.validation_loss[-1]:.3f}"
        if self.accuracy:
            shown += f"  accuracy {self.accuracy[-1]:.3f}"
        return shown
