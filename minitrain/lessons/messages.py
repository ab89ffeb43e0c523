"""Messages between a check and a student's function, each in a process of its own: JSON text and bytes, never code.

A process can at worst refuse what the other one sends (`Malformed`). The values in a message are described in table.py.
"""

import builtins
import contextlib
import json
import os
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..errors import UserError

LARGEST = 2**26  # bytes of a message
TEXT = 2**23  # bytes of its JSON
HEAD = struct.Struct("!II")
BROKEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError)
ERRORS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, (Exception, SystemExit)) and "Group" not in name
}
ERRORS |= {kind.__name__: kind for kind in (UserError, np.linalg.LinAlgError)}


class Malformed(Exception):
    """What arrived is no message of this protocol."""


class Line:
    """One end of the connection: a pipe to read from, and one to write to."""

    def __init__(self, hears: int, tells: int) -> None:
        self.hears, self.tells, self.come = hears, tells, bytearray()

    def write(self, tree: Any, data: Sequence[bytes] = ()) -> None:
        """Send a message. Raise ValueError if it is too large."""
        text = json.dumps([[len(part) for part in data], tree], separators=(",", ":")).encode()
        size = sum(map(len, data))
        if len(text) > TEXT or size > LARGEST:
            raise ValueError(
                f"it takes {len(text) + size:,} bytes; at most {LARGEST:,}, of which {TEXT:,} without arrays"
            )
        left = memoryview(b"".join([HEAD.pack(len(text), size), text, *data]))
        while left:
            left = left[os.write(self.tells, left) :]

    def read(self) -> tuple[Any, list[bytes]]:
        """Wait for a message. Raise EOFError if there will be none, Malformed if it is none."""
        length, size = HEAD.unpack(self._read(HEAD.size))
        if length > TEXT or size > LARGEST:
            raise Malformed(f"a message of {length + size:,} bytes")
        text, rest = self._read(length), self._read(size)
        try:
            lengths, tree = json.loads(text)
            ends = list(accumulate(sizes(lengths)))
            if sum(lengths) != size:
                raise Malformed("a message whose parts have other lengths")
        except BROKEN as error:
            raise Malformed(f"a message that is none ({type(error).__name__})") from None
        return tree, [rest[end - n : end] for end, n in zip(ends, lengths, strict=True)]

    def _read(self, size: int) -> bytes:
        while len(self.come) < size:
            more = os.read(self.hears, max(2**16, size - len(self.come)))
            if not more:
                raise EOFError
            self.come += more
        found = bytes(self.come[:size])
        del self.come[:size]
        return found

    def close(self) -> None:
        """Let the other side find the end."""
        for file in {self.hears, self.tells} - {-1}:
            os.close(file)
        self.hears = self.tells = -1  # the system gives the number to the next file


def sizes(given: Any) -> list[int]:
    """Return a list of lengths. Raise ValueError if it is none."""
    if not isinstance(given, list) or not all(type(n) is int and n >= 0 for n in given):
        raise ValueError(f"{given!r:.50} for sizes")
    return given


def classes_of(error: BaseException) -> list[str]:
    """Return the names of an exception's classes, its own first."""
    return [kind.__name__ for kind in type(error).__mro__]


def rebuilt(names: Sequence[str], text: str) -> BaseException:
    """Return an exception that is called and says the same. Of its classes, only the first known one is kept."""
    base = next((ERRORS[name] for name in names if name in ERRORS), RuntimeError)
    if base.__name__ == names[0]:
        with contextlib.suppress(TypeError):  # it takes more than a text
            error = base(text)
            if str(error) == text:
                return error
    members = {"__init__": lambda self, *_: None, "__str__": lambda self: str(self.args[0]), "__module__": "exercise"}
    return type(str(names[0])[:100], (base,), members)(text)
