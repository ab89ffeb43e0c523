"""Explain a NaN or infinite loss or gradient: by a bad sample, a bad layer or half precision, tried in this order."""

import math
from itertools import chain
from typing import TYPE_CHECKING

from ..backend import is_finite, to_host, xp
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..errors import UserError
from ..precision import first_bad_layer
from .history import Update

if TYPE_CHECKING:
    from .trainer import Trainer


class NotFinite(UserError):
    """A loss or a gradient that is NaN or infinite; the weights are still those before the batch."""


def explain(trainer: "Trainer", update: Update, local: Batch, expected: bool) -> None:
    """Raise NotFinite for a non-finite loss or gradient, naming the sample or else the first layer to blame. Do
    nothing if the batch is finite in float32 and the scaler skipped it (`expected`). local: this rank's part of the
    batch."""
    check_samples(trainer.world, local, f"batch {local.where.number}, at update {trainer.updates}")
    here = [first_bad_layer(trainer.model, micro) for micro in local.split(trainer.accumulate)]
    found = set(chain(*trainer.world.gather_objects(here)))
    layer = next((path for path in trainer.layers if path in found), None)
    what = f"the norm of the gradient is {update.norm}" if math.isfinite(update.loss) else f"the loss is {update.loss}"
    where = f"{what} in batch {local.where.number}, at update {trainer.updates}"
    if layer is not None:
        raise NotFinite(f"{where}; the first layer whose output is NaN or infinite is {layer}; {trainer.advice}")
    if trainer.precision is None:
        raise NotFinite(f"{where}, although every layer's output is finite; {trainer.advice}")
    if not expected:
        raise NotFinite(
            f"{where}, although every layer's output is finite in float32: half precision overflows. Use a scaler "
            "(skips such batches), a DynamicPolicy (moves such layers to float32), or bfloat16"
        )


def check_samples(world: Communicator, local: Batch | None, name: str) -> None:
    """Raise NotFinite, on all ranks, if a sample on any rank is not finite. name: what the message calls the batch."""
    here = None if local is None else first_bad_sample(local)
    found = [message for message in world.gather_objects(here) if message is not None]
    if found:
        raise NotFinite(f"{name}: {min(found)[1]}.\nNo change of the learning rate helps: correct or remove the sample")


def first_bad_sample(batch: Batch) -> tuple[int, str] | None:
    """Return (index in the global batch, message) for the first sample with NaN or infinity; None if there is none."""
    for name, array in (("inputs", batch.inputs), ("labels", batch.labels)):
        if array is None or array.dtype.kind in "iu" or is_finite(array):
            continue
        i = int(to_host(~xp.isfinite(array).reshape(len(array), -1).all(axis=1)).argmax())
        number, row = batch.where.samples.start + i, "" if batch.rows is None else f", row {batch.rows[i]} of the data,"
        return number, f"sample {number}{row} has {name} that are NaN or infinite"
    return None
