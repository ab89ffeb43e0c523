"""Validation on one rank: check that the batches cover the data once, and count the correct predictions in a batch."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..backend import to_host
from ..comm.agreement import check_same
from ..comm.communicator import Communicator
from ..data.batch import Batch, checksum_of
from ..errors import UserError, shown
from ..models import Model


def each_once(batches: Iterable[Batch], world: Communicator) -> Iterator[Batch]:
    """Yield the batches, with dropout off. Raise UserError after the last one unless together they form one global
    batch, with each sample once, and are the same on all ranks."""
    if not isinstance(batches, Iterable):
        raise UserError(f"batches is {shown(batches)}; give the parts of a global batch, loader.validation()")
    samples, B, data = 0, 1, 0
    for batch in batches:
        samples, B = samples + batch.where.samples.stop - batch.where.samples.start, batch.where.B
        data = checksum_of(batch, data) if world.size > 1 else 0
        yield replace(batch, where=replace(batch.where, training=False))
    check_same(world, {"samples": samples, "B": B, "checksum of the data": data})
    if samples != B:
        raise UserError(
            f"the batches hold {samples} samples of a global batch of {B}: they must hold each sample once.\n"
            "Call loader.validation() again each time: an iterator can be used only once"
        )


def right_answers(model: Model, batch: Batch) -> int:
    """Return the number of labels that equal the most probable class. Raise UserError for a batch without labels."""
    if batch.labels is None:
        raise UserError(f"batch {batch.where.number} has no labels, which accuracy needs")
    likely = to_host(model(Batch(batch.inputs, None, batch.where)).data).argmax(axis=-1)
    return int((likely == to_host(batch.labels)).sum())
