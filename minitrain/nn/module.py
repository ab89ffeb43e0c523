"""Module: something with parameters and with modules below it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional
from ..autograd import Tensor
from ..backend import to_device
from ..data.batch import Batch
from ..denominators import batch_at_work
from ..errors import UserError, shown
from ..observe import ledger
from .parameter import Parameter

if TYPE_CHECKING:
    from ..parallel.plan import Plan


_changes = count(1)


class Module:
    """Something with parameters, found by looking through its attributes in the order they were set.

    changes: a number that is another one after any module has had a member set or taken away.
    """

    changes = 0
    path: str = ""
    precision: Any = None  # precision.Precision, which chooses dtypes; without one all is computed as it is given
    per_position = False  # each position is treated by itself: the module may be given a share of the time

    def shard(self, plan: "Plan") -> None:
        """Say how the layers below are divided among the ranks of a tp axis, in the words of parallel/plan.py.

        By default each child says so itself, and a layer that says nothing is whole on every rank.
        """
        for _, child in self.children():
            child.shard(plan)

    def unrolled(self) -> list["Module"]:
        """The units that this one is made of: itself, unless it is a segment of several."""
        return [self]

    def chosen(self, operation: str, given: Any) -> np.dtype:
        """The dtype in which this module does the operation, on activations of dtype `given`."""
        return np.dtype(given) if self.precision is None else self.precision.dtype(self.path, operation, given)

    def at(self, operation: str, x: Tensor) -> Tensor:
        """x in the dtype in which this module does the operation."""
        dtype = self.chosen(operation, x.dtype)
        return x if x.dtype == dtype else functional.cast(x, dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise UserError where a parameter would be replaced by its result: it would not be found, nor trained."""
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter):
            raise UserError(
                f"{self.path or type(self).__name__}.{name} is a parameter, and is set to {shown(value)}.\n"
                f"Change its values instead: {name}.data *= 0.5, or {name}.data = an array"
            )
        super().__setattr__(name, value)
        Module.changes = next(_changes)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        Module.changes = next(_changes)

    def members(self) -> Iterator[tuple[str, Any]]:
        """(name, thing) for the attributes, and for what is in lists, tuples and dictionaries: "layers.0"."""
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", thing) for i, thing in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", thing) for key, thing in value.items())
            else:
                yield name, value

    def put(self, name: str, child: "Module") -> None:
        """Put a module in the place of the member with this name."""
        holder, _, key = name.partition(".")
        place = getattr(self, holder)
        if not key:
            setattr(self, name, child)
        elif isinstance(place, dict):
            place[next(k for k in place if str(k) == key)] = child
        else:
            setattr(self, holder, type(place)(child if str(i) == key else thing for i, thing in enumerate(place)))

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) for the members that are modules."""
        yield from ((name, value) for name, value in self.members() if isinstance(value, Module))

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Parameter]:
        """In the order of first use in the forward, a shared one once."""
        found: dict[Parameter, None] = {}
        for _, value in self.members():
            if isinstance(value, Parameter):
                found[value] = None
            elif isinstance(value, Module):
                found.update(dict.fromkeys(value.parameters()))
        return list(found)

    def draw(self, seed: int) -> None:
        """Gives every parameter its initial values, without buckets."""
        for p in self.parameters():
            values = to_device(p.draw(seed))
            p.data = values  # also where there are values already
            if p.bucket is None:
                ledger.hold(values, "parameters", "set-up")


Watch = Callable[[str, Tensor | None, Tensor], None]  # (path of a unit, what goes in, what comes out)
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch | None) -> Iterator[None]:
    """`watch` is shown what every unit makes, in this thread."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def pass_through(units: Sequence[Any], x: Tensor | None, batch: Batch) -> Tensor:
    """What the units make of x, one after the other; nothing goes into the first unit of a whole model."""
    watch = _watch.get()
    with batch_at_work(batch):  # for losses without a denominator
        for unit in units:
            before, x = x, unit(x, batch)
            if not isinstance(x, Tensor):
                name = getattr(unit, "path", "") or type(unit).__name__
                raise TypeError(f"unit {name} returned {shown(x)}; a unit returns a Tensor")
            if watch is not None and unit.path and x is not None:  # a segment has no path; its units have
                watch(unit.path, before, x)
    assert x is not None
    return x
