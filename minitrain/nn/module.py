"""Module: a container of parameters and child modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional
from ..backend import to_device
from ..data.batch import Batch
from ..errors import UserError, shown
from ..loss_denominators import batch_at_work
from ..observe import ledger, recorder
from ..tensor import Tensor
from .parameter import Parameter

if TYPE_CHECKING:
    from ..parallel.plan import Plan


_changes = count(1)


class Module:
    """Base class of layers. Parameters and child modules are found by walking the attributes in the order they were
    set.

    changes: a number that changes whenever any module gains or loses a member.
    """

    changes = 0
    path: str = ""
    precision: Any = None  # precision.Precision, which chooses dtypes; None: the dtype of the input
    __call__: Callable[..., Tensor]  # each layer defines its own: (x, batch) for a unit, (x), (ids)
    per_position = False  # positions are independent: the module may be given a shard of the sequence

    def shard(self, plan: "Plan") -> None:
        """Divide the layers below among the ranks of the tp axis by calling methods of `plan` (parallel/plan.py).

        By default, each child decides for itself; a layer that is not divided is replicated on every rank.
        """
        for _, child in self.children():
            child.shard(plan)

    def unrolled(self) -> list["Module"]:
        """Return the units this module consists of: itself, or those of a segment."""
        return [self]

    def compute_dtype(self, operation: str, given: Any) -> np.dtype:
        """Return the dtype in which this module runs `operation` on activations of dtype `given`."""
        return np.dtype(given) if self.precision is None else self.precision.dtype(self.path, operation, given)

    def cast_input(self, operation: str, x: Tensor) -> Tensor:
        """Cast x, of any shape, to the dtype in which this module runs `operation`."""
        dtype = self.compute_dtype(operation, x.dtype)
        return x if x.dtype == dtype else functional.cast(x, dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Raise UserError if the value would replace a parameter: training would no longer see it."""
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter):
            raise UserError(
                f"{self.path or type(self).__name__}.{name} is a parameter, but was set to {shown(value)}.\n"
                f"Change its values instead: {name}.data *= 0.5, or {name}.data = an array"
            )
        super().__setattr__(name, value)
        Module.changes = next(_changes)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        Module.changes = next(_changes)

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) for the attributes and for the items of lists, tuples and dictionaries ("layers.0")."""
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", thing) for i, thing in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", thing) for key, thing in value.items())
            else:
                yield name, value

    def put(self, name: str, child: "Module") -> None:
        """Replace the member called `name` with `child`."""
        holder, _, key = name.partition(".")
        place = getattr(self, holder)
        if not key:
            setattr(self, name, child)
        elif isinstance(place, dict):
            place[next(k for k in place if str(k) == key)] = child
        else:
            setattr(self, holder, type(place)(child if str(i) == key else thing for i, thing in enumerate(place)))

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield (name, module) for the members that are modules."""
        yield from ((name, value) for name, value in self.members() if isinstance(value, Module))

    def modules(self) -> Iterator["Module"]:
        """Yield this module and all modules below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Parameter]:
        """Return the parameters in the order of first use in the forward; a shared one appears once."""
        found: dict[Parameter, None] = {}
        for _, value in self.members():
            if isinstance(value, Parameter):
                found[value] = None
            elif isinstance(value, Module):
                found.update(dict.fromkeys(value.parameters()))
        return list(found)

    def init(self, seed: int) -> None:
        """Set every parameter to its initial values for this seed. Raise UserError for an invalid seed."""
        for p in self.parameters():
            values = to_device(p.initial_values(seed))
            p.data = values  # replaces existing values
            if p.bucket is None:
                ledger.hold(values, "parameters", "set-up")


Watch = Callable[[str, Tensor | None, Tensor], None]  # (path of a unit, input, output)
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch | None) -> Iterator[None]:
    """Call `watch` on the input and output of every unit that runs in this context, on this thread."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def pass_through(units: Sequence[Any], x: Tensor | None, batch: Batch) -> Tensor:
    """Apply the units in order to x (B, ...), which is None for the first unit of a whole model.

    Raise TypeError if a unit returns anything but a Tensor.
    """
    watch = _watch.get()
    with batch_at_work(batch):  # for losses without a denominator
        for unit in units:
            name = getattr(unit, "path", "") or type(unit).__name__
            with recorder.span(name, "unit"):
                before, x = x, unit(x, batch)
            if not isinstance(x, Tensor):
                raise TypeError(f"unit {name} returned {shown(x)}; a unit returns a Tensor")
            if watch is not None and unit.path and x is not None:  # a segment has no path; its units have one
                watch(unit.path, before, x)
    assert x is not None
    return x


def check_free(model: Module) -> None:
    """Raise UserError if a trainer (its reducer) already holds the model's parameters."""
    for p in model.parameters():
        if p.bucket is not None:
            raise UserError(
                f"{p.placement.path} belongs to a trainer already, and two would overwrite each other's updates.\n"
                "Use that trainer, or gather its values and restore them into another model"
            )
