"""Hooks: functions of your own in place of the library's, to move gradients and parameters between ranks."""

from collections.abc import Callable
from dataclasses import dataclass

from ..backend import Array
from .overlap import CommunicationThread

# Called with arrays and the group, and with `shards` if the bucket's shards are unequal:
Sync = Callable[..., None]  # replaces each of a list of gradients by its sum over the group
Scatter = Callable[..., Array]  # returns this rank's shard of the sum
Gather = Callable[..., None]  # fills the array with the shards of all ranks


@dataclass(frozen=True)
class Hooks:
    """Replacements for the library's functions that move gradients and parameters; None keeps the library's own."""

    sync: Sync | None = None
    scatter: Scatter | None = None
    gather: Gather | None = None
    thread: Callable[[], CommunicationThread] = CommunicationThread  # makes the thread that reduces during backward
