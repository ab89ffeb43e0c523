"""The one exception for mistakes that a person can mend, and the checks that raise it."""

import contextlib
import functools
import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Set
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
    text = _brief.repr(value).replace("\n", " ")  # an array inside a list may take several lines
    return text if len(text) <= 600 else f"{text[:500]}...{text[-50:]}"


def _indefinite(noun: str) -> str:
    return "an array" if noun == "ndarray" else f"a {noun}"


class _Brief(reprlib.Repr):
    """Of anything, in at most a few hundred characters."""

    def repr_int(self, x: int, level: int) -> str:
        """Python itself refuses to write a number of more than 4,300 digits."""
        return repr(x) if x.bit_length() < 2000 else f"a number of {x.bit_length():,} bits"


_brief = _Brief()
_brief.maxstring = _brief.maxother = 200

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


def check_names(what: str, owner: str, given: Set[str], wanted: Set[str], cure: str) -> None:
    """Raise UserError unless `what` was given has exactly the names that its owner wants."""
    for names, said in ((wanted - given, "lacks"), (given - wanted, f"has, and the {owner} does not,")):
        if names:
            first, more = sorted(names)[:3], len(names) - 3
            raise UserError(
                f"the {what} {said} {', '.join(first)}" + (f" and {more} more" if more > 0 else "") + f".\n{cure}"
            )


def check_state(name: str, state: Any, names: Iterable[str]) -> None:
    """Raise UserError unless the state is a dictionary with exactly these names in it, as `state_dict` returned it."""
    if not isinstance(state, Mapping):
        raise UserError(f"{name} is {shown(state)}; it must be the dictionary that state_dict() returned")
    wanted, given = dict.fromkeys(names), dict.fromkeys(state)
    lacks, more = [key for key in wanted if key not in given], [key for key in given if key not in wanted]
    if lacks or more:
        raise UserError(
            f"{name} {'lacks' if lacks else 'has'} {', '.join(map(shown, (lacks or more)[:3]))}; it must have "
            f"{', '.join(map(repr, wanted)) or 'nothing in it'}: load the state of a run with the same arguments"
        )


def check_text(name: str, value: Any) -> None:
    """Raises UserError unless the value is a string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is {shown(value)}; it must be a string")


def check_memory(what: str, size: int, cure: str = "give a smaller one", there: float | None = None) -> None:
    """Raises UserError when `what` needs more bytes than there are: it would end in a MemoryError, or in a kill."""
    if there is None:
        there = memory_left()
    if size > there:
        raise UserError(f"{what} needs at least {_readable(size)} of memory; there are {_readable(there)}: {cure}")


def _readable(size: float) -> str:
    if size >= 2**30:
        return f"{size / 2**30:,.1f} GiB"
    return f"{size / 2**20:,.{0 if size >= 10 * 2**20 else 1}f} MiB"


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


def left_of_limit(megabytes: float, before: int) -> float:
    """Bytes that are left of a limit, of which the bytes in use `before` take nothing.

    Raises UserError for a limit above what the machine has.
    """
    check_number("--memory-mb", megabytes, "above 0")
    if megabytes * 2**20 > memory_of_machine():
        raise UserError(f"--memory-mb is {megabytes:g}; this machine has {memory_of_machine() / 2**20:.0f}: give less")
    return max(0.0, megabytes * 2**20 - (memory_used() - before))


def limit_memory(megabytes: float, before: int) -> None:
    """From now on this process gets so much memory on top of the bytes that it used `before`, and no more.

    Raises UserError where the system cannot do that.
    """
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (before + int(megabytes * 2**20), hard))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"--memory-mb is {megabytes:g}, but this system cannot limit memory: {error}") from error
    _limits.append(megabytes)


_limits: list[float] = []  # of this process, which can only be set


def out_of_memory(error: BaseException) -> UserError | None:
    """What to say of an error that --memory-mb has brought about; None for another one."""
    starved = isinstance(error, MemoryError) or "can't start new thread" in str(error)
    if not (_limits and starved):
        return None
    return UserError(
        f"--memory-mb is {_limits[-1]:g}, which is too little for this run: {error or 'no more'}; give more"
    )


@functools.cache
def memory_of_machine() -> int | float:
    """Bytes of main memory, or of what a container may use of it; infinite where the system does not tell."""
    sizes: list[int | float] = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # "max" is no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)
