"""What a rank does in an update, as far as it takes time."""

from dataclasses import dataclass
from typing import Literal

from ..observe.virtual_time import Seconds
from .holdings import Group
from .operations import Collective

Thread = Literal["reduce", "prefetch"]  # of gradients; of parameters (ZeRO-3)


@dataclass(frozen=True)
class Compute:
    """FLOPs."""

    flops: int
    axis = ""


@dataclass(frozen=True)
class Meet:
    """A collective over a group."""

    what: Collective
    group: Group

    @property
    def axis(self) -> str:
        """The axis whose ranks communicate."""
        return self.what.tag[0]


@dataclass(frozen=True)
class Message:
    """A message from rank `source` to rank `to`. Both have an event for it, with the same key."""

    key: tuple[object, ...]
    source: int
    to: int
    nbytes: int
    axis: str = "pp"


@dataclass(frozen=True)
class Submit:
    """A collective that a communication thread runs, from time `start` on."""

    meeting: Meet
    thread: Thread = "reduce"
    start: Seconds = 0

    @property
    def axis(self) -> str:
        """The axis whose ranks communicate."""
        return self.meeting.axis


@dataclass(frozen=True)
class Wait:
    """Wait until all but the last `left` jobs of a communication thread are done."""

    left: int = 0
    thread: Thread = "reduce"
    axis: str = "dp"


@dataclass(frozen=True, eq=False)
class Work:
    """Several events, one after the other. The same object stands for the same work of other blocks."""

    events: "tuple[Event, ...]"
    axis = ""


Event = Compute | Meet | Message | Submit | Wait | Work
