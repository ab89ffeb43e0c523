"""Hooks: your own functions for moving gradients and parameters between ranks, in place of the library's."""

from collections.abc import Callable
from dataclasses import dataclass

from ..backend import Array
from .overlap import CommunicationThread

# Called with arrays and the group, and with `shards` if the bucket's shards are unequal:
Sync = Callable[..., None]  # replaces each gradient in a list with its sum over the group
Scatter = Callable[..., Array]  # returns this rank's shard of the sum
Gather = Callable[..., None]  # fills the array with the shards of all ranks


@dataclass(frozen=True)
class Hooks:
    """Replacements for the library's functions that move gradients and parameters; None keeps the library's own."""

    sync: Sync | None = None
    scatter: Scatter | None = None
    gather: Gather | None = None
    thread: Callable[[], CommunicationThread] = CommunicationThread  # creates the thread that reduces during backward
