"""Values between a check and a student's function as JSON and bytes: plain data, and numbers of what has an identity.

Each side has a `Table` of arrays, lists, dictionaries, and things that stay where they are (`away`). A number means the
same object on both sides, so an array that is changed in place is the same array afterwards, a view of it is a view,
and a list that is returned twice is one list:

    [1, 2.5, "a", None]         ["l", 4, 1, 2.5, "a", null]              4 is the list's number
    x[1:3], x of 3 float64      ["v", 8, ["a", 6, "<f8", [3], "C", true], "<f8", [2], [8], 8, true]
    the same list again         ["=", 4]

What is no plain data arrives as an object that looks the same and does nothing (`Foreign`).
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import takewhile
from math import prod
from operator import is_not
from typing import Any

import numpy as np

from ..comm.agreement import Call
from ..parallel.pipeline_schedules import Do
from .memory import address, contiguous, dtype_of, fill, known, memory, name_of, owner_of
from .messages import LARGEST, sizes

KEPT = 32  # calls for which an object that no call uses keeps its number
BITS = 3200  # of an integer, at most
RECORDS: dict[type, Callable[[Any], Sequence[Any]]] = {Do: lambda do: (do.kind, do.micro, do.chunk), Call: tuple}
NAMED = {kind.__name__: kind for kind in RECORDS}


class Foreign:
    """Stands for an object that is no plain data: its class is called the same, and it looks the same."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Table:
    """The numbered objects of one side. `first` is 0 on one side and 1 on the other, which make new numbers."""

    def __init__(self, first: int, away: Callable[[Any], Any] = lambda thing: None) -> None:
        """away(thing): what to tell the other side about something that stays here, or None if it can be sent."""
        self.next, self.away, self.clock = first, away, 0
        self.things: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}  # id(thing) -> number
        self.used: dict[int, int] = {}  # number -> the last call that used it, in that order
        self.content: dict[int, Any] = {}  # number -> a copy of the array or the items, as the other side has them
        self.own: set[int] = set()  # of them, those that were first here
        self.entered: list[int] = []  # numbers given since the last message
        self.touched: list[int] = []  # numbers in the last message
        self.data: list[bytes] = []  # of the message that is being written or read
        self.arrive: dict[str, Callable[..., Any]] = {}  # kind -> what to make of a thing that stays there
        self.read: dict[str, Callable[..., Any]] = {
            "=": self.use, "l": self._new_list, "d": self._new_dict, "a": self._new_array, "v": self._new_view,
            "n": self._scalar, "b": self._bytes, "r": self._record, "?": self._foreign,
        }  # fmt: skip

    # Numbers ----------------------------------------------------------------------------------------------------------

    def enter(self, thing: Any, number: int | None = None, content: Any = None) -> int:
        """Give an object a number, the next one by default. Raise ValueError for one that is taken."""
        if number is None:
            number = self.next
            self.next += 2
            if content is not None:
                self.own.add(number)
        elif type(number) is not int or number in self.things:
            raise ValueError(f"{number} is not a new number")
        self.things[number], self.numbers[id(thing)], self.used[number] = thing, number, self.clock
        self.entered.append(number)
        self.touched.append(number)
        if content is not None:
            self.content[number] = content
        return number

    def use(self, number: int) -> Any:
        """Return the object, which is kept for as long as the calls go on using it."""
        if self.used.pop(number) < self.clock and isinstance(thing := self.things[number], np.ndarray):
            owner = self.numbers.get(id(owner_of(thing)), number)
            if owner != number:
                self.use(owner)
        self.used[number] = self.clock
        self.touched.append(number)
        return self.things[number]

    def forget(self, numbers: Sequence[int]) -> None:
        """Take objects' numbers away; the other side does the same."""
        for number in numbers:
            thing = self.things.pop(number)
            del self.numbers[id(thing)], self.used[number]
            self.content.pop(number, None)
            self.own.discard(number)

    def tick(self) -> None:
        """Begin a call. Forget what the last calls have not used."""
        self.clock += 1
        while self.used and self.used[first := next(iter(self.used))] < self.clock - KEPT:
            self.forget([first])
        self.begin()

    def begin(self, data: list[bytes] | None = None) -> None:
        """Begin a message: one to write, or one to read with this data."""
        self.entered, self.touched, self.data = [], [], data or []

    # Out --------------------------------------------------------------------------------------------------------------

    def pack(self, value: Any) -> Any:
        """Return the value as JSON; bytes go into `data`."""
        kind = type(value)
        if value is None or kind is str or kind is bool or kind is float:
            return value
        if kind is int and value.bit_length() < BITS:
            return value
        if kind is tuple:
            return ["t", *map(self.pack, value)]
        if kind in RECORDS:
            return ["r", kind.__name__, *map(self.pack, RECORDS[kind](value))]
        if (number := self.numbers.get(id(value))) is not None:
            self.use(number)
            return ["=", number]
        if kind is np.ndarray and known(value.dtype):
            return self._array(value)
        if (told := self.away(value)) is not None:
            return [*told, self.enter(value)]
        return self._other(value)

    def _other(self, value: Any) -> Any:
        """Return a container or a number of NumPy as JSON, and of anything else its class and its looks."""
        if isinstance(value, list):
            return ["l", self.enter(value, content=list(value)), *map(self.pack, value)]
        if isinstance(value, dict):
            number = self.enter(value, content=[part for pair in value.items() for part in pair])
            return ["d", number, *map(self.pack, self.content[number])]
        if isinstance(value, np.generic) and known(value.dtype):
            self.data.append(value.tobytes())
            return ["n", name_of(value.dtype)]
        for name, kind, parts in PLAIN:
            if isinstance(value, kind):
                return [name, *map(self.pack, parts(value))]
        if isinstance(value, bytes):
            self.data.append(bytes(value))
            return ["b"]
        return ["?", type(value).__name__, looks(value)]

    def _array(self, x: np.ndarray) -> Any:
        """Return an array: its values, or for a part of another array, which."""
        owner, name = owner_of(x), name_of(x.dtype)
        if owner is not x and type(owner) is np.ndarray and known(owner.dtype) and contiguous(owner):
            offset = address(x) - address(owner)
            if 0 <= offset <= owner.nbytes:
                whole = self.pack(owner)
                return ["v", self.enter(x), whole, name, [*x.shape], [*x.strides], offset, x.flags.writeable]
        self.data.append(x.tobytes())
        order = "C" if x.flags.c_contiguous or not x.flags.f_contiguous else "F"
        return ["a", self.enter(x, content=x.copy("K")), name, [*x.shape], order, x.flags.writeable]

    def changes(self, numbers: Iterable[int]) -> Any:
        """Return what has changed since the last message in these arrays, lists and dictionaries."""
        found: list[Any] = []
        for number in numbers:
            thing = self.things[number]
            if isinstance(thing, np.ndarray):
                copy = self.copy_of(number, thing)
                if (now := thing.tobytes()) != copy.tobytes():
                    fill(copy, now)
                    self.data.append(now)
                    found.append([number])
            elif (before := self.content.get(number)) is not None:
                items = [part for pair in thing.items() for part in pair] if isinstance(thing, dict) else list(thing)
                if len(items) != len(before) or any(map(is_not, items, before)):
                    self.content[number] = items
                    found.append([number, *map(self.pack, items)])
        return found

    def copy_of(self, number: int, x: np.ndarray) -> np.ndarray:
        """Return the copy of an array as the other side has it; of a view, that part of the copy."""
        if number in self.content:
            return self.content[number]
        owner = owner_of(x)
        copy, offset = self.content[self.numbers[id(owner)]], address(x) - address(owner)
        return np.ndarray(x.shape, x.dtype, memory(copy), offset, x.strides)

    def recent(self, all_of_it: bool = False) -> list[int]:
        """Return the numbers of what has content and is used by this call. all_of_it: or was first here."""
        found = takewhile(lambda number: self.used[number] == self.clock, reversed(self.used))
        return sorted(self.content.keys() & (self.own.union(found) if all_of_it else set(found)))

    # In ---------------------------------------------------------------------------------------------------------------

    def unpack(self, tree: Any) -> Any:
        """Return the value that `pack` has described. `data` holds the bytes, in order."""
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        kind, *rest = tree
        if kind in self.read:
            return self.read[kind](*rest)
        if kind in self.arrive:
            *told, number = rest
            thing = self.arrive[kind](number, *told)
            self.enter(thing, number)
            return thing
        return MAKE[kind](*map(self.unpack, rest))

    def _new_list(self, number: int, *items: Any) -> Any:
        made: list[Any] = []
        self.enter(made, number)
        made += map(self.unpack, items)
        self.content[number] = list(made)
        return made

    def _new_dict(self, number: int, *items: Any) -> Any:
        made: dict[Any, Any] = {}
        self.enter(made, number)
        parts = [self.unpack(item) for item in items]
        made.update(zip(parts[::2], parts[1::2], strict=True))
        self.content[number] = [part for pair in made.items() for part in pair]
        return made

    def _new_array(self, number: int, name: str, shape: list[int], order: str, writeable: bool) -> Any:
        dtype, content = dtype_of(name), self.data.pop(0)
        if prod(sizes(shape)) * dtype.itemsize != len(content) or order not in ("C", "F"):
            raise ValueError(f"{len(content)} bytes for {shape} of {dtype}")
        made = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        fill(made, content)
        made.flags.writeable = bool(writeable)
        self.enter(made, number, made.copy("K"))
        return made

    def _new_view(
        self, number: int, whole: Any, name: str, shape: list[int], strides: list[int], offset: int, writeable: bool
    ) -> Any:
        owner, dtype = self.unpack(whole), dtype_of(name)
        if not isinstance(owner, np.ndarray) or prod(sizes(shape)) * dtype.itemsize > LARGEST:
            raise ValueError("a view of something else")
        made = np.ndarray(tuple(shape), dtype, memory(owner), offset, tuple(strides))
        made.flags.writeable = bool(writeable) and owner.flags.writeable
        self.enter(made, number)
        return made

    def _scalar(self, name: str) -> Any:
        dtype, content = dtype_of(name), self.data.pop(0)
        if len(content) != dtype.itemsize:
            raise ValueError(f"{len(content)} bytes of {dtype}")
        return np.ndarray((1,), dtype, content)[0]

    def _bytes(self) -> bytes:
        return self.data.pop(0)

    def _record(self, name: str, *fields: Any) -> Any:
        return NAMED[name](*map(self.unpack, fields))

    def _foreign(self, name: str, text: str) -> Any:
        return type(str(name)[:100], (Foreign,), {})(str(text))

    def apply(self, changed: Any) -> None:
        """Change arrays, lists and dictionaries as the other side has. Raise ValueError for what does not fit."""
        for number, *items in changed:
            thing = self.things[number]
            if isinstance(thing, np.ndarray):
                content = self.data.pop(0)
                if len(content) != thing.nbytes:
                    raise ValueError(f"{len(content)} bytes for {thing.nbytes}")
                fill(self.copy_of(number, thing), content)
                fill(thing, content)
                continue
            parts = [self.unpack(item) for item in items]
            if isinstance(thing, dict):
                thing.clear()
                thing.update(zip(parts[::2], parts[1::2], strict=True))
            else:
                thing[:] = parts
            self.content[number] = parts


PLAIN: tuple[tuple[str, Any, Callable[[Any], Sequence[Any]]], ...] = (  # values without identity, and their parts
    ("t", tuple, tuple),
    ("slice", slice, lambda it: (it.start, it.stop, it.step)),
    ("range", range, lambda it: (it.start, it.stop, it.step)),
    ("set", set, tuple),
    ("frozenset", frozenset, tuple),
    ("fraction", Fraction, lambda it: (it.numerator, it.denominator)),
    ("complex", complex, lambda it: (it.real, it.imag)),
    ("str", str, lambda it: (str(it),)),
    ("float", float, lambda it: (float(it),)),
    ("int", int, lambda it: (int(it),) if it.bit_length() < BITS else (f"{it:x}", 16)),
)
MAKE: dict[str, Callable[..., Any]] = {
    "t": lambda *parts: parts, "slice": slice, "range": range, "set": lambda *parts: set(parts),
    "frozenset": lambda *parts: frozenset(parts), "fraction": lambda n, d: Fraction(int(n), int(d)),
    "complex": complex, "str": str, "float": float, "int": int,
}  # fmt: skip


def looks(value: Any) -> str:
    """Return the beginning of a value's repr."""
    try:
        return repr(value)[:400]
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
