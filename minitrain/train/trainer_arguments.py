"""Check the arguments of Trainer, its `step` and its `fit`, and derive defaults that depend on other arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..data.batch import Batch
from ..data.loader import Loader
from ..errors import UserError, check_number, check_whole, shown
from ..models import Model
from ..optim import Optimizer
from ..parallel.strategy import Strategy
from ..precision import DynamicScaler, Precision, Scaler, use


def check_options(optimizer: Any, schedule: Any, momentum: Any, strategy: Any, accumulate: Any, clip: Any) -> None:
    """Raise UserError for invalid arguments of `Trainer`, except the seed, which `Reducer.init` checks."""
    if not callable(optimizer):
        raise UserError(
            f"optimizer is {shown(optimizer)}; it must build an optimizer from a reducer: give a class, such as Adam"
        )
    if not callable(schedule):
        check_number("schedule", schedule, "at least 0")
    if momentum is not None and not callable(momentum):
        raise UserError(
            f"momentum is {shown(momentum)}; it must be a function of the update, or None for a constant momentum"
        )
    if not isinstance(strategy, Strategy):
        raise UserError(f"strategy is {shown(strategy)}; it must be a Strategy, such as Strategy(zero=1)")
    check_whole("accumulate", accumulate, 1)
    if clip is not None:
        check_number("clip", clip, "above 0")


def check_kinds(model: Any, world: Any, mesh: Any, precision: Any, scaler: Any) -> None:
    """Raise UserError for arguments of `Trainer` of the wrong type."""
    kinds = {"model": (model, Model), "world": (world, Communicator), "mesh": (mesh, Mesh | None)}
    kinds |= {"precision": (precision, Precision | None), "scaler": (scaler, Scaler | None)}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise UserError(f"{name} is {shown(value)}; it must be a {getattr(kind, '__name__', kind)}")


def check_global(batch: Any) -> None:
    """Raise UserError unless this is a whole global batch with labels."""
    if not isinstance(batch, Batch) or batch.labels is None:
        raise UserError(f"the batch is {shown(batch)}; training takes a Batch with labels, e.g. from a loader")
    samples, B = batch.where.samples, batch.where.B
    if samples != slice(0, B):
        raise UserError(
            f"the batch holds samples {samples.start}:{samples.stop} of {B}; "
            "give `step` the whole global batch on every rank; each rank takes its own part"
        )


def check_fit(train: Any, epochs: Any, validation: Any, patience: Any, updates: Any, validate_every: Any) -> None:
    """Raise UserError for invalid or contradictory arguments of `fit`."""
    check_loader("train", train)
    if validation is not None:
        check_loader("validation", validation)
    if (epochs is None) == (updates is None):
        raise UserError(
            f"epochs is {shown(epochs)} and updates is {shown(updates)}; exactly one must say how long to train: "
            "give epochs=10 or updates=1000"
        )
    counts = {"epochs": epochs, "updates": updates, "validate_every": validate_every, "patience": patience}
    for name, count in counts.items():
        if count is not None:
            check_whole(name, count, 1)
    if validate_every is not None and updates is None:
        raise UserError(f"validate_every is {validate_every}, but each epoch is validated: give updates, not epochs")
    if patience is not None and validation is None:
        raise UserError(f"patience is {patience}, which waits for a better validation loss: give validation= too")


def check_loader(name: str, data: Any) -> None:
    """Raise UserError unless `data` is a loader."""
    if not isinstance(data, Loader) or isinstance(data, type):
        raise UserError(
            f"{name} is {shown(data)}; it must be a loader, such as "
            "ArrayLoader(inputs, labels, batch=32, seed=1) or TextLoader(ids, context=64, batch=24, seed=1)"
        )
    check_whole(f"{name}.batches", data.batches, 1)


def owners(optimizer: Callable[..., Optimizer]) -> str:
    """Return what ranks must own for this optimizer, "elements" or whole "parameters", as its class declares. Unwrap
    `partial`."""
    made: Any = optimizer
    while isinstance(made, partial):
        made = made.func
    return getattr(made, "owners", "elements")


def scaler_for(precision: Precision | None, strategy: Strategy) -> Scaler:
    """Return a dynamic loss scaler if layers or transfers use float16, otherwise a scaler that does nothing."""
    halves = [strategy.sent_dtype, precision and precision.half]
    return DynamicScaler() if np.float16 in halves else Scaler()


def precision_of(model: Model, precision: Precision | None, half_weights: bool) -> Precision | None:
    """Return the precision the model computes in from now on: the one given, or the one the model already has (a
    copy has its original's). Raise UserError for half weights without a precision."""
    present = next((module.precision for module in model.modules() if module.precision is not None), None)
    if precision is None or precision is present:
        if half_weights and present is None:
            raise UserError("half_weights is True, but no precision says which half type to use: give one")
        return present
    use(model, precision, half_weights)
    return precision
