"""The one exception for mistakes that a person can mend, and the checks that raise it."""

import contextlib
import functools
import math
import os
import reprlib
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class UserError(Exception):
    """What was given, what was expected, where, and what to do about it.

    Raised before the first step, with the same text on every rank. A program under `minitrain.launch()`
    prints it once, without a traceback, and ends the job with status 2.
    """


def shown(value: Any) -> str:
    """The value for a message, in at most a line: an array by its dtype and shape, a long list by its beginning."""
    dtype, ndim = getattr(value, "dtype", None), getattr(value, "ndim", None)
    if dtype is not None and isinstance(ndim, int) and ndim:  # the classes of NumPy's numbers have them as well
        return f"{_indefinite(type(value).__name__)} of {dtype}, shape {tuple(value.shape)}"
    return _brief.repr(value).replace("\n", " ")  # an array inside a list may take several lines


def _indefinite(noun: str) -> str:
    return "an array" if noun == "ndarray" else f"a {noun}"


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 200
_brief.maxlong = 500

RANGES = {
    "finite": lambda x: True,
    "at least 0": lambda x: x >= 0,
    "above 0": lambda x: x > 0,
    "at least 0 and less than 1": lambda x: 0 <= x < 1,
    "between 0 and 1": lambda x: 0 <= x <= 1,
    "above 0 and at most 1": lambda x: 0 < x <= 1,
    "above 0 and less than 1": lambda x: 0 < x < 1,
}


def check_whole(name: str, value: Any, least: int = 0, most: int = 2**63 - 1) -> None:
    """Raises UserError unless the value is a whole number in least..most (unless given, what an int64 holds)."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}; it must be a whole number")
    if not least <= int(value) <= most:
        border = f"at least {least}" if int(value) < least else f"at most {most}"
        raise UserError(f"{name} is {shown(value)}; it must be {border}")


def check_seed(seed: Any) -> None:
    """Raises UserError unless the seed is a whole number, which may be negative."""
    check_whole("seed", seed, -(2**63))


def check_shape(name: str, shape: Any) -> None:
    """Raises UserError unless the shape is a tuple of whole numbers of at least 0."""
    if not isinstance(shape, tuple):
        raise UserError(f"{name} is {shown(shape)}; it must be a tuple of whole numbers")
    for n in shape:
        check_whole(f"an axis of {name} {shown(shape)}", n)


def check_number(name: str, value: Any, allowed: str) -> None:
    """Raises UserError unless the value is a finite number that is `allowed`, one of RANGES."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):  # a whole number that no float can hold
        if number and math.isfinite(value) and RANGES[allowed](value):
            return
    raise UserError(f"{name} is {shown(value)}; it must be a number, {allowed}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises UserError unless the value is one of these words."""
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name} is {shown(value)}; allowed: {', '.join(map(repr, choices))}")


def check_text(name: str, value: Any) -> None:
    """Raises UserError unless the value is a string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is {shown(value)}; it must be a string")


def check_memory(what: str, size: int, cure: str = "give a smaller one") -> None:
    """Raises UserError when `what` needs more bytes than there are: it would end in a MemoryError, or in a kill."""
    there = memory_left()
    if size > there:
        raise UserError(f"{what} needs at least {_readable(size)} of memory; there are {_readable(there)}: {cure}")


def _readable(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def memory_left() -> float:
    """Bytes that this process may still use: of its limit (`limit_memory`, or ulimit -d), or of the machine's."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit != resource.RLIM_INFINITY:
            return min(memory_of_machine(), limit - memory_used())
    return memory_of_machine()


def memory_used() -> int:
    """Bytes that count against RLIMIT_DATA: the private, writable memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE")


def limit_memory(megabytes: float) -> None:
    """From now on this process gets so much memory and no more; what it has already does not count.

    Raises UserError where the system cannot do that.
    """
    check_number("--memory-mb", megabytes, "above 0")
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (memory_used() + int(megabytes * 2**20), hard))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"--memory-mb is {megabytes}, but this system cannot limit memory: {error}") from error


@functools.cache
def memory_of_machine() -> int | float:
    """Bytes of main memory, or of what a container may use of it; infinite where the system does not tell."""
    sizes: list[int | float] = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # "max" is no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)
