"""Detect changes to a model's parameters after it was divided into buckets.

A parameter that is removed or frozen later would keep its old place in a bucket, and one that is added would have none.
"""

from collections.abc import Sequence

from ..errors import UserError
from ..nn import Module, Parameter
from .buckets import Bucket


class ModelChanges:
    """The check of one model, made at the start of each step."""

    def __init__(self, model: Module, buckets: Sequence[Bucket]) -> None:
        self.model, self.buckets = model, buckets
        self.steps, self.version = 0, -1  # number of checks, and Module.changes at the last search of the modules

    def check(self) -> None:
        """Raise UserError if the model's parameters have changed since it was divided into buckets.

        Search the modules if an attribute of any module was set or deleted. This misses changes to a list in a module,
        so search also at steps 0, 1, 2, 4, 8, and so on.
        """
        held = now = dict.fromkeys(p for bucket in self.buckets for p in bucket.parameters)
        if self.version != Module.changes or self.steps & (self.steps - 1) == 0:
            self.version, now = Module.changes, dict.fromkeys(self.model.parameters())
        self.steps += 1
        for p in {**now, **held}:
            if what := _changed(p) if p in now else "was removed":
                raise UserError(
                    f"{p.placement.path} {what} after the model was divided into buckets; change the model before "
                    "making its reducer with minitrain.parallel.parallelize"
                )


def _changed(p: Parameter) -> str:
    """Return what has changed about p since it joined its bucket, or ""."""
    if p.bucket is None:
        return "was added"
    if p.requires_grad != p.bucket.trained:
        return "was frozen" if p.bucket.trained else "was unfrozen"
    return "" if p.decay == p.bucket.decay else f"got a different decay, {p.decay},"
