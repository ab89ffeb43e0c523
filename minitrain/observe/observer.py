"""Report a step's instructions and messages in a pipeline (parallel/pipeline.py) to an observer."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..parallel.pipeline_schedules import Do


class Observer(Protocol):
    """An interface for recording a rank's actions during a step, in order; clock.Stamps implements it."""

    def begins(self, do: "Do") -> None:
        """Record that the inputs of this instruction have arrived and its computation begins."""

    def sends(self, to: int, number: int) -> None:
        """Record that this rank sends message `number` to rank `to` of the pipeline."""

    def received(self, source: int, number: int, nbytes: int) -> None:
        """Record that this rank has received message `number`, of nbytes bytes, from rank `source`."""


class Nobody(Observer):
    """An Observer that ignores everything."""

    def begins(self, do: "Do") -> None:
        pass

    def sends(self, to: int, number: int) -> None:
        pass

    def received(self, source: int, number: int, nbytes: int) -> None:
        pass


NOBODY = Nobody()
_observer: ContextVar[Observer] = ContextVar("observer", default=NOBODY)


@contextmanager
def observing(observer: Observer | None) -> Iterator[None]:
    """Report what pipelines do in this thread to the observer; None turns reporting off."""
    token = _observer.set(observer or NOBODY)
    try:
        yield
    finally:
        _observer.reset(token)


def observer() -> Observer:
    """Return this thread's observer."""
    return _observer.get()
