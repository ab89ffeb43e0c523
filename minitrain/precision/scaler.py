"""The loss scale, which keeps gradients in the range of float16."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, is_finite, square, to_device
from ..errors import UserError, check_number, check_state, check_whole
from ..optim import Slices, steps_begun
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..comm.communicator import Communicator


OVERFLOW = ("mesh", "overflow")


def agree(overflow: bool, world: "Communicator | None") -> bool:
    """Return whether any rank of `world` overflowed, so that either all ranks step or none. No world: just this rank.

    All-reduce one int32, tagged OVERFLOW.
    """
    flag = to_device(np.array([overflow], np.int32))
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])


def next_scale(
    scale: float, good: int, overflow: bool, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[float, int]:
    """Return (scale, good steps in a row) after one more batch.

    scale, good: the values before the batch. overflow: its gradients overflowed and the step was skipped.
    On overflow, multiply the scale by backoff. After `interval` good steps in a row, including this one, multiply it by
    growth, unless the product is too large for float32 (2^128 and above). Restart the count at 0 on overflow, and after
    `interval` good steps even if the scale stays. Powers of two change only exponents, so gradients lose no bits.
    """
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0


class Scaler:
    """No scaling and no check: for float32 and bfloat16. The training step calls, in this order:

    scaler.scale(loss).backward()       gradients are S times too large
    ...                                 gradients are summed over all ranks
    if scaler.unscale(reducer):         the same result on every rank of the mesh
        clip, step                      on gradients without S

    Several models, each with its own reducer, may share a scaler. If S changes after their steps began, their gradients
    still carry the old S. Such steps form one round, in which S changes once.
    """

    value = 1.0  # S
    skips = 0  # skipped batches

    def scale(self, loss: Tensor) -> Tensor:
        """Return S x loss."""
        return loss if self.value == 1 else loss * self.value

    def unscale(self, reducer: Slices) -> bool:
        """Divide the gradients by S, after the reducer's synchronize(). Return False if the step must be skipped."""
        return True

    def at_floor(self) -> bool:
        """Return whether the scale cannot be lowered any further."""
        return True

    def expecting(self) -> AbstractContextManager[Any]:
        """Return a context for code that may overflow; scalers that check for it silence NumPy's warnings there."""
        return nullcontext()

    def state_dict(self) -> dict[str, float]:
        """Return what has changed during training, by name; empty without a scale."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state, between two steps. Raise UserError if it is not the state of this kind of scaler."""
        check_state("the state of the scaler", state, self.state_dict())


class StaticScaler(Scaler):
    """A constant S. All ranks skip a batch whose gradients overflow.

    agree: a function like `agree`.
    Raise UserError for invalid arguments and, in `unscale`, if `patience` batches in a row overflow: S, or the values
    in the model, are too large.
    """

    moving: tuple[str, ...] = ("value", "in_a_row")  # what changes once per round

    def __init__(
        self,
        value: float = 2.0**12,
        patience: int = 20,
        agree: Callable[[bool, Any], bool] = agree,
    ) -> None:
        check_scale(value)
        check_whole("patience", patience, 1)
        self.value, self.patience, self.agree = float(value), patience, agree
        self.in_a_row = self.skips = 0
        self.round: list[Slices] = []  # gradients unscaled with the same S
        self.moved = self.scaled = -1  # when S last changed, and was last used, in the reducers' step count
        self.before: dict[str, Any] = {}  # S, and what changes with it, before the round
        self.overflowed = False  # any in the round

    def scale(self, loss: Tensor) -> Tensor:
        """Return S x loss, and note when S was used."""
        self.scaled = next(steps_begun)
        return super().scale(loss)

    def unscale(self, reducer: Slices) -> bool:
        """Check for overflow and divide by S; return whether to step.

        The check follows the reduction, which has spread an inf on one rank to all ranks that sum with it. `agree` then
        includes the ranks that hold other parts of the model. Nothing has been updated yet.
        """
        self.enter(reducer)
        with self.expecting():
            here = not all(all_finite(owned.grad) for owned in reducer.owned())
        overflow = self.agree(here, reducer.world)
        reducer.factor /= self.value
        self.skips += overflow
        self.overflowed |= overflow
        self.in_a_row = self.in_a_row + 1 if self.overflowed and self.at_floor() else 0
        if self.in_a_row >= self.patience:
            raise UserError(
                f"{self.in_a_row} batches in a row overflowed with the loss scale {self.value:g}: give a smaller scale "
                "or learning rate, use bfloat16, or keep the layers that overflow in float32"
            )
        self.update(self.overflowed)
        return not overflow

    def enter(self, reducer: Slices) -> None:
        """Restore the S that these gradients carry if it has changed since their step began; else begin a new round.

        Raise UserError if these gradients were already unscaled, or if it is unknown which S they carry.
        """
        if getattr(reducer, "begun", math.inf) > self.moved:  # without a reducer: their own round
            self.moved = next(steps_begun)
            self.before = {name: vars(self)[name] for name in self.moving}
            self.round, self.overflowed = [reducer], False
            return
        if any(other is reducer for other in self.round):
            raise UserError(
                "unscale was called twice in one step: the gradients would be divided by the loss scale twice.\n"
                "Call it once, after synchronize()"
            )
        if self.scaled > self.moved:
            raise UserError(
                "a loss was scaled after the scale changed, for gradients whose step began before: it is unknown which "
                "scale they carry.\nCall start_step() of each reducer right before scaling its own loss"
            )
        vars(self).update(self.before)
        self.round.append(reducer)

    def expecting(self) -> AbstractContextManager[Any]:
        """Return a context that silences NumPy's overflow and invalid-value warnings."""
        return np.errstate(over="ignore", invalid="ignore")

    def update(self, overflow: bool) -> None:
        """Set the scale for the next batch; a constant S stays."""

    def state_dict(self) -> dict[str, float]:
        """Return the scale, its counters and the number of skipped batches."""
        return {name: vars(self)[name] for name in (*self.moving, "skips")}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state, between two steps. Raise UserError if a value is invalid."""
        super().load_state_dict(state)
        for name, number in state.items():
            if name == "value":
                check_scale(number)
            else:
                check_whole(f"{name} in the state of the scaler", number)
        vars(self).update(state, value=float(state["value"]))
        self.round, self.moved, self.scaled = [], -1, -1  # the next unscale begins a new round


def check_scale(value: Any) -> None:
    """Raise UserError unless the value is a valid loss scale."""
    check_number("the loss scale", value, "above 0")
    if not 2.0**-126 <= value < 2.0**128:
        raise UserError(f"the loss scale is {value}; float32 must hold it and its inverse: give 2^-126 to 2^127")


class DynamicScaler(StaticScaler):
    """A loss scale S that decreases when gradients overflow, and increases after a long run without: see next_scale.

    Raise UserError for invalid arguments and, in `unscale`, if `patience` batches in a row overflow with S at `floor`,
    its smallest value.
    """

    def __init__(
        self,
        value: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        floor: float = 1.0,
        patience: int = 20,
        agree: Callable[[bool, Any], bool] = agree,
        rule: Callable[..., tuple[float, int]] = next_scale,
    ) -> None:
        super().__init__(value, patience, agree)
        check_number("growth", growth, "above 0")
        check_number("backoff", backoff, "above 0")
        check_number("floor", floor, "above 0")
        check_whole("interval", interval, 1)
        if growth <= 1 or backoff >= 1 or floor > value:
            raise UserError(
                f"growth is {growth}, backoff {backoff}, floor {floor} and the initial scale {value}: growth must be "
                "above 1, backoff below 1, and the floor at most the initial scale"
            )
        self.growth, self.backoff, self.interval, self.floor, self.rule = growth, backoff, interval, floor, rule
        self.good = 0  # good steps in a row

    moving = ("value", "in_a_row", "good")

    def at_floor(self) -> bool:
        """Return whether S has reached `floor`."""
        return self.value <= self.floor

    def update(self, overflow: bool) -> None:
        """Set the scale for the next batch by `rule`, but not below `floor`."""
        value, self.good = self.rule(self.value, self.good, overflow, self.growth, self.backoff, self.interval)
        self.value = max(value, self.floor)


def all_finite(gradient: Array) -> bool:
    """Return whether no element is infinite or NaN. A finite sum of squares proves it in a tenth of the time."""
    return math.isfinite(square(gradient)) or is_finite(gradient)
