"""Check that ranks agree: on their configuration at the start and, in debug mode, on every communication call.

`check_same` compares the configuration once, before the first step. `sum_if_same` compares in each step what the step
depends on. The rest of this module is for debug mode.

A collective works only if all ranks make the same call. Otherwise MPI hangs, aborts with its own error stack, or adds
unrelated bytes. With MINITRAIN_DEBUG=1 the ranks first exchange a description of each call; if the descriptions differ,
all ranks raise the same UserError. Each message carries its sender's description.

The source line and the array's name may differ if everything else is equal: `if rank == root: broadcast(x) else:
broadcast(buffer)` is correct. However, one rank may be at a line and array name from which another rank, now elsewhere,
made an earlier call. Then the two make the same calls in a different order, which is an error.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..backend import Array, to_device, to_host
from ..errors import UserError, shown
from .rank_positions import caller, named

if TYPE_CHECKING:
    from .communicator import Communicator, Tag

CURE = "all ranks of a group must make the same calls in the same order, with the same arguments"
Made = TypeVar("Made")
PLAIN = (bool, int, float, str, type(None))
KINDS = 4  # a message lists at most this many different calls or values


def check_same(world: "Communicator", given: Mapping[str, Any]) -> None:
    """Raise the same UserError on every rank if the ranks were given different values. Each sends one small message.

    Objects are compared by their class and plain attributes: see `plain`.
    """
    if world.size == 1:
        return
    described = {key: repr(value) for name, thing in given.items() for key, value in plain(name, thing).items()}
    if len(set(world.gather_objects(zlib.crc32(repr(described).encode())))) == 1:
        return
    everyone = world.gather_objects(described)
    names = [
        name for name in dict(chain(*map(dict.items, everyone))) if len({given.get(name) for given in everyone}) > 1
    ]
    differences = [_who_has(name, [given.get(name, "nothing") for given in everyone]) for name in names]
    rest = f"; and {len(differences) - 2} more" if len(differences) > 2 else ""
    raise UserError(
        "\n".join(["ranks were given different values; start all ranks with the same ones", *differences[:2]]) + rest
    )


def sum_if_same(world: "Communicator", part: float, given: Mapping[str, Any], tag: "Tag") -> float:
    """Return the sum of `part` over the ranks. Raise UserError unless all of them were given the same values.

    The same message also sums a checksum of the values, and its square. On N ranks, N times the sum of the squares
    equals the square of the sum only if all checksums are equal; both are exact.
    """
    mark = zlib.crc32(repr(given).encode()) & 0xFFFFF
    x = to_device(np.array([part, mark, mark**2], np.float64))
    world.all_reduce(x, tag)
    total, marks, squares = to_host(x).tolist()
    if world.size * squares != marks**2:
        check_same(world, given)
    return total


def agreed(world: "Communicator", work: Callable[[], Made]) -> Made:
    """Return work(). If it raises UserError on any rank, raise the first such rank's error on all ranks.

    All ranks must call this.
    """
    message, made = "", None
    try:
        made = work()
    except UserError as error:
        message = str(error)
    messages = [other for other in world.gather_objects(message) if other]
    if messages:
        raise UserError(messages[0])
    return made  # type: ignore[return-value]


def _who_has(name: str, values: Sequence[str]) -> str:
    """Return, for example, "seed: 1 on ranks 0, 2; 3 on rank 1"."""
    groups: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(value, []).append(rank)
    kinds = [f"{value[:200]} on {named(ranks)}" for value, ranks in groups.items()]
    return f"{name}: {'; '.join(kinds[:KINDS] + (['other values on other ranks'] if len(kinds) > KINDS else []))}"


def plain(name: str, thing: Any) -> dict[str, Any]:
    """Return {name: thing} for a number, string, or sequence of them; for an object, its class and plain attributes."""
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, PLAIN) or (isinstance(thing, (tuple, list)) and all(isinstance(x, PLAIN) for x in thing)):
        return {name: thing}
    kind = getattr(thing, "__qualname__", type(thing).__qualname__)  # a function's or a class's own name
    attributes = () if isinstance(thing, type) else getattr(thing, "__dict__", {}).items()
    return {name: kind, **{f"{name}.{key}": value for key, value in attributes if isinstance(value, PLAIN)}}


class Call(NamedTuple):
    """The call that a rank is about to make. All fields but `place` must be equal on all ranks of the group."""

    operation: str
    communicator: str
    tag: Any = None
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    how: tuple[tuple[str, Any], ...] = ()
    place: tuple[str, ...] = ()  # file:line, and the array's names there

    def text(self) -> str:
        """Return, for example, "all_reduce of loss: float64 (6,), tag ('dp', 'x'), op 'sum', at train.py:12"."""
        where, *names = self.place
        array = f" of {', '.join(names)}{': ' if names else ''}{self.dtype} {self.shape}" if self.dtype else ""
        parts = [self.operation + array]
        parts += [f"tag {shown(self.tag)}"] if self.tag is not None else []
        parts += [f"{name} {shown(value)}" for name, value in self.how]
        return ", ".join([*parts, f"at {where}"])


def call_of(comm: "Communicator", operation: str, x: Array | None, tag: Any, how: dict[str, Any]) -> Call:
    """Return the description of a call on `comm` with array x; `how` holds its other arguments."""
    shape, dtype = (x.shape, str(x.dtype)) if x is not None else (None, "")
    return Call(operation, _kind(comm), tag, shape, dtype, tuple(how.items()), caller(x))


def _kind(comm: Any) -> str:
    """Return, for example, "RingCommunicator on MPICommunicator"."""
    inner = getattr(comm, "inner", None)
    return type(comm).__name__ + ("" if inner is None else f" on {_kind(inner)}")


def agree(comm: "Communicator", mine: Call) -> None:
    """Raise the same UserError on every rank of the group if their calls differ."""
    ranks, calls = zip(*comm._gather_objects((comm.moves.rank, mine)), strict=True)
    if differing := differences(calls):
        if "communicator" in differing:
            calls = tuple(call._replace(operation=f"{call.operation} of {call.communicator}") for call in calls)
        raise UserError(f"ranks differ in {', '.join(differing)}: {CURE}\n{_listed(ranks, calls)}")
    places = [call.place for call in calls]
    if len(set(places)) == 1:
        return
    before = comm.apart.setdefault(repr(mine[:-1]), [set() for _ in places])
    for place, was in zip(places, before, strict=True):
        was.add(place)
    if any(place in was and place != now for place in places for now, was in zip(places, before, strict=True)):
        raise UserError(f"ranks make the same calls in a different order: {CURE}\n{_listed(ranks, calls)}")


def differences(calls: Sequence[Call]) -> list[str]:
    """Return the names of the fields that differ between the calls; just "operation" if the operations differ."""
    names = [name for i, name in enumerate(Call._fields[:-1]) if len({repr(call[i]) for call in calls}) > 1]
    if "how" in names and "operation" not in names:
        names[names.index("how")] = calls[0].how[0][0]
    return names if "operation" not in names else ["operation"]


def agree_on_members(comm: "Communicator", members: Sequence[int], mine: Call) -> None:
    """Raise UserError if the members of a new subgroup disagree on the members or their order.

    Only the members take part, so they exchange descriptions pairwise. If two differ, each names the other.
    """
    others = [rank for rank in members if rank != comm.rank]
    apart = comm.numbers  # a message number that is otherwise unused
    for rank in others:
        comm._tell((comm.moves.rank, mine), rank, apart)
    for rank in others:
        other, theirs = comm._hear(rank, apart)
        if theirs[:-1] != mine[:-1]:
            ranks, calls = zip(*sorted([(comm.moves.rank, mine), (other, theirs)]), strict=True)
            raise UserError(f"ranks differ in the members of a subgroup: {CURE}\n{_listed(ranks, calls)}")


def agree_on_message(comm: "Communicator", source: int, number: int, mine: Call, nbytes: int) -> None:
    """Raise UserError unless the arriving message matches the receive in tag, dtype and size."""
    other, theirs, coming = comm._hear(source, number)
    if (theirs.tag, theirs.dtype, coming) != (mine.tag, mine.dtype, nbytes):
        told = _listed((other, comm.moves.rank), (theirs, mine))
        raise UserError(f"a message does not match its receive: tag, dtype and size must be equal\n{told}")


def _listed(ranks: Sequence[int], calls: Sequence[Call]) -> str:
    """Return which ranks make which call: one line for the first call, one for all others."""
    groups: dict[str, list[int]] = {}
    for rank, call in zip(ranks, calls, strict=True):
        groups.setdefault(call.text(), []).append(rank)
    kinds = [f"{named(numbers)}: {text}" for text, numbers in groups.items()]
    rest = [f"and {len(kinds) - KINDS} other calls"] if len(kinds) > KINDS else []
    return f"{kinds[0]}\n{'; '.join(kinds[1:KINDS] + rest)}"
