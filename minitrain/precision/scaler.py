"""The loss scale, which keeps gradients in the range of float16."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Tensor
from ..backend import Array, is_finite, square, to_device
from ..errors import UserError, check_number, check_state, check_whole
from ..optim import steps_begun

if TYPE_CHECKING:
    from ..comm.communicator import Communicator


OVERFLOW = ("mesh", "overflow")


def agree(overflow: bool, world: "Communicator | None") -> bool:
    """Whether there is an overflow on any rank of `world`: all step, or none does. Without a world: on this rank.

    An all-reduce of one int32, labelled OVERFLOW.
    """
    flag = to_device(np.array([overflow], np.int32))
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])


def next_scale(
    scale: float, good: int, overflow: bool, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[float, int]:
    """(scale, good steps in a row) after one more batch.

    scale, good: before it. overflow: its gradients overflowed, and the step was skipped. Then the scale is multiplied
    by backoff. When `interval` good steps have come, this one included, it is multiplied by growth, unless float32
    cannot hold the product (2^128 and above). In both cases counting begins again, at 0. Powers of two change exponents
    only, so that no bit of a gradient is lost.
    """
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0


class Scaler:
    """No scale, no check: for float32 and bfloat16. What the training step calls, in this order:

    scaler.scale(loss).backward()       gradients are S times what they are
    ...                                 they are added up over all ranks
    if scaler.unscale(gradients):       the same answer on every rank of the mesh
        clip, step                      on gradients without S

    Several models may share a scaler, each with a reducer of its own. Those whose steps began before S moved carry the
    S from before: together they are one round, after which S has moved once.
    """

    value = 1.0  # S
    skips = 0  # batches that were skipped

    def scale(self, loss: Tensor) -> Tensor:
        """S x loss."""
        return loss if self.value == 1 else loss * self.value

    def unscale(self, gradients: Any) -> bool:
        """Takes S out of the gradients (a reducer's, after finish()). False: do not step."""
        return True

    def at_floor(self) -> bool:
        """Whether the scale cannot come down any more."""
        return True

    def expecting(self) -> AbstractContextManager[Any]:
        """Around what may overflow: no warnings of what will be looked for."""
        return nullcontext()

    def state_dict(self) -> dict[str, float]:
        """What has moved since training began, by name; nothing without a scale."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there; between two steps. Raise UserError for a state that is none of this kind of scaler."""
        check_state("the state of the scaler", state, self.state_dict())


class StaticScaler(Scaler):
    """A constant S. A batch whose gradients overflow is skipped, by all ranks.

    agree: (overflow on this rank, all ranks) -> overflow anywhere. Raises UserError when `patience` batches in a row
    overflow: S, or the model's own numbers, are too large.
    """

    moving: tuple[str, ...] = ("value", "in_a_row")  # what a round changes

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
        self.round: list[Any] = []  # the gradients that were unscaled with the same S
        self.moved = self.scaled = -1  # when S moved last, and was used last: in the count of the reducers' steps
        self.before: dict[str, Any] = {}  # S, and what moves with it, as the round found them
        self.overflowed = False  # any of the round

    def scale(self, loss: Tensor) -> Tensor:
        self.scaled = next(steps_begun)
        return super().scale(loss)

    def unscale(self, gradients: Any) -> bool:
        """Checked after the reduction, when an inf of one rank has reached those that add with it, and agreed upon with
        the others (which hold other parts of the model); before anything has changed."""
        self.enter(gradients)
        with self.expecting():
            here = not all(all_finite(owned.grad) for owned in gradients.owned())
        overflow = self.agree(here, gradients.world)
        gradients.factor /= self.value
        self.skips += overflow
        self.overflowed |= overflow
        self.in_a_row = self.in_a_row + 1 if self.overflowed and self.at_floor() else 0
        if self.in_a_row >= self.patience:
            raise UserError(
                f"{self.in_a_row} batches in a row overflowed with the loss scale {self.value:g}: give a smaller scale "
                "or learning rate, bfloat16, or keep the layers that overflow in float32"
            )
        self.update(self.overflowed)
        return not overflow

    def enter(self, gradients: Any) -> None:
        """Take S back to what these gradients carry, if it has moved since their step began; else begin a new round.

        Raise UserError for gradients that were unscaled already.
        """
        if getattr(gradients, "begun", math.inf) > self.moved:  # without a reducer: a round of their own
            self.moved = next(steps_begun)
            self.before = {name: vars(self)[name] for name in self.moving}
            self.round, self.overflowed = [gradients], False
            return
        if any(other is gradients for other in self.round):
            raise UserError(
                "unscale was called twice in one step: the gradients would be divided by the loss scale twice.\n"
                "Call it once, after finish()"
            )
        if self.scaled > self.moved:
            raise UserError(
                "a loss was scaled after the scale had moved, for gradients whose step had begun before: which scale "
                "they have is not known.\nCall begin() of each reducer right before its own loss is scaled"
            )
        vars(self).update(self.before)
        self.round.append(gradients)

    def expecting(self) -> AbstractContextManager[Any]:
        return np.errstate(over="ignore", invalid="ignore")

    def update(self, overflow: bool) -> None:
        """The scale for the next batch."""

    def state_dict(self) -> dict[str, float]:
        return {name: vars(self)[name] for name in (*self.moving, "skips")}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        super().load_state_dict(state)
        for name, number in state.items():
            if name == "value":
                check_scale(number)
            else:
                check_whole(f"{name} in the state of the scaler", number)
        vars(self).update(state, value=float(state["value"]))
        self.round, self.moved, self.scaled = [], -1, -1  # what comes is a new round


def check_scale(value: Any) -> None:
    """Raise UserError unless this can be a loss scale."""
    check_number("the loss scale", value, "above 0")
    if not 2.0**-126 <= value < 2.0**128:
        raise UserError(f"the loss scale is {value}; float32 must hold it and 1 / it: give 2^-126 to 2^127")


class DynamicScaler(StaticScaler):
    """S moves: down at once when gradients overflow, up after a long time without. See next_scale.

    Raises UserError when `patience` batches in a row overflow with S at `floor`, where it stays.
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
                f"growth is {growth}, backoff {backoff}, floor {floor} and the first scale {value}: growth must be "
                "above 1, backoff below 1, and the floor at most the first scale"
            )
        self.growth, self.backoff, self.interval, self.floor, self.rule = growth, backoff, interval, floor, rule
        self.good = 0  # steps in a row

    moving = ("value", "in_a_row", "good")

    def at_floor(self) -> bool:
        return self.value <= self.floor

    def update(self, overflow: bool) -> None:
        value, self.good = self.rule(self.value, self.good, overflow, self.growth, self.backoff, self.interval)
        self.value = max(value, self.floor)


def all_finite(gradient: Array) -> bool:
    """Whether no element is infinite or NaN. A finite sum of squares proves it, and takes a tenth of the time."""
    return math.isfinite(square(gradient)) or is_finite(gradient)
