"""What stays with the judge, as it looks in the student's process: communicators, their handles, functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..comm.communicator import Communicator, Tag
from ..comm.rank_positions import Moves
from .table import Table

OWN: Tag = ("ring", "own")  # tag of the messages of a ring that the student's function has made
OPERATIONS: dict[str, set[str]] = {  # what may be asked for, by the kind of thing
    "communicator": {
        "all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier", "send", "receive", "gather_objects",
        "subgroup", "duplicate", "free", "_tell", "_hear",
    },
    "handle": {"wait", "done"},
    "function": {"__call__"},
    "ufunc": set(),
}  # fmt: skip


class Thing:
    """Something that stays with the judge, by its number."""

    asks: Callable[..., Any]  # of this process: Student.ask

    def __init__(self, number: int) -> None:
        self.number = number

    def ask(self, name: str, *given: Any, **named: Any) -> Any:
        """Let the judge call this method."""
        return Thing.asks(self, name, given, named)

    def concerns(self, table: Table) -> list[int]:
        """Return the numbers of what the judge must see as it is now: the arguments."""
        return table.touched


class Handle(Thing):
    """The handle of a message. array: what was sent."""

    array: Any = None

    def concerns(self, table: Table) -> list[int]:
        """Return the number of the array, if it is known."""
        return [number for number in [table.numbers.get(id(self.array))] if number is not None]

    def wait(self) -> None:
        """Block until the sent array may be modified again."""
        self.ask("wait")

    def done(self) -> bool:
        """Return whether the sent array may be modified again."""
        return bool(self.ask("done"))


class Called(Thing):
    """A function. It may change whatever the student's function was given."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number)
        self.__name__ = name

    def concerns(self, table: Table) -> list[int]:
        """Return the numbers of all that this call has used."""
        return table.recent()

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.ask("__call__", *given, **named)


def ufunc(number: int, name: str) -> Any:
    """Return one of NumPy's own functions, such as add."""
    return getattr(np, name)


class Ranks(Thing, Communicator):
    """A communicator. The judge sends and receives, and its ledger counts, also for a ring that is built on it."""

    def __init__(self, number: int, rank: int, size: int, numbers: int) -> None:
        Communicator.__init__(self, rank, size, Moves(rank))
        self.number, self.numbers = number, numbers

    def _all_reduce(self, x: Any, op: str, tag: Tag, shards: Any) -> None:
        self.ask("all_reduce", x, tag, op, shards)

    def _reduce_scatter(self, x: Any, tag: Tag, shards: Any) -> Any:
        return self.ask("reduce_scatter", x, tag, shards)

    def _all_gather(self, x: Any, tag: Tag, shards: Any) -> None:
        self.ask("all_gather", x, tag, shards)

    def _broadcast(self, x: Any, root: int, tag: Tag) -> None:
        self.ask("broadcast", x, root, tag)

    def _barrier(self) -> None:
        self.ask("barrier")

    def _gather_objects(self, value: Any) -> list[Any]:
        return list(self.ask("gather_objects", value))

    def _subgroup(self, ranks: Any) -> Any:
        return self.ask("subgroup", ranks)

    def _duplicate(self) -> Any:
        return self.ask("duplicate")

    def _free(self) -> None:
        self.ask("free")

    def _send(self, x: Any, to: int, number: int) -> Any:
        return self.ask("send", x, to, OWN, number)

    def _receive(self, x: Any, source: int, number: int) -> None:
        self.ask("receive", x, source, OWN, number)

    def _tell(self, value: Any, to: int, number: int) -> None:
        self.ask("_tell", value, to, number)

    def _hear(self, source: int, number: int) -> Any:
        return self.ask("_hear", source, number)


def _asking(name: str) -> Any:
    def method(self: Ranks, *given: Any, **named: Any) -> Any:
        return self.ask(name, *given, **named)

    method.__name__ = name
    return method


for _name in OPERATIONS["communicator"]:
    if not _name.startswith("_"):
        setattr(Ranks, _name, _asking(_name))


ARRIVE: dict[str, Callable[..., Any]] = {"communicator": Ranks, "handle": Handle, "function": Called, "ufunc": ufunc}
