"""The exception for mistakes that a user can fix, and the checks that raise it."""

import contextlib
import functools
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Set
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comm.communicator import Communicator


class UserError(Exception):
    """A mistake that the user can fix. The message says what was given, what was expected, where, and what to do.

    Raised before the first step, with the same text on every rank. A program under `minitrain.launch()`
    prints it once, without a traceback, and exits with status 2.
    """


def on_rank_0(world: "Communicator", work: Callable[[], None], kind: type[UserError] = UserError) -> None:
    """Call work() on rank 0, and raise its UserError as `kind` on all ranks. All ranks must call this."""
    message = ""
    if world.rank == 0:
        try:
            work()
        except UserError as error:
            message = str(error)
    if message := world.gather_objects(message)[0]:
        raise kind(message)


def shown(value: Any) -> str:
    """Format a value for a message, in one line: an array as its dtype and shape, a long list as its beginning."""
    dtype, ndim = getattr(value, "dtype", None), getattr(value, "ndim", None)
    if dtype is not None and isinstance(ndim, int) and ndim:  # NumPy's scalar classes have these attributes too
        return f"{_indefinite(type(value).__name__)} of {dtype}, shape {tuple(value.shape)}"
    text = _brief.repr(value).replace("\n", " ")  # an array in a list can take several lines
    return text if len(text) <= 600 else f"{text[:500]}...{text[-50:]}"


def _indefinite(noun: str) -> str:
    return "an array" if noun == "ndarray" else f"a {noun}"


class _Brief(reprlib.Repr):
    """The repr of any value, in at most a few hundred characters."""

    def repr_int(self, x: int, level: int) -> str:
        """Show a huge integer by its size: Python refuses to print more than 4,300 digits."""
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
    """Raise UserError unless the value is a whole number in least..most (default: 0 to the largest int64)."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}; it must be a whole number")
    if not least <= int(value) <= most:
        border = f"at least {least}" if int(value) < least else f"at most {most}"
        raise UserError(f"{name} is {shown(value)}; it must be {border}")


def check_seed(seed: Any) -> None:
    """Raise UserError unless the seed is a whole number that fits an int64, possibly negative."""
    check_whole("seed", seed, -(2**63))


def check_shape(name: str, shape: Any) -> None:
    """Raise UserError unless the shape is a tuple of whole numbers of at least 0."""
    if not isinstance(shape, tuple):
        raise UserError(f"{name} is {shown(shape)}; it must be a tuple of whole numbers")
    for n in shape:
        check_whole(f"an axis of {name} {shown(shape)}", n)


def check_number(name: str, value: Any, allowed: str) -> None:
    """Raise UserError unless the value is a finite number in the range named by `allowed`, a key of RANGES."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):  # an integer too large for a float
        if number and math.isfinite(value) and RANGES[allowed](value):
            return
    raise UserError(f"{name} is {shown(value)}; it must be a number, {allowed}")


def reason(error: Exception) -> str:
    """Return an error in words, without its number if it is the system's."""
    return getattr(error, "strerror", None) or str(error)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise UserError unless the value is one of the choices."""
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name} is {shown(value)}; allowed: {', '.join(map(repr, choices))}")


def check_names(what: str, owner: str, given: Set[str], wanted: Set[str], cure: str) -> None:
    """Raise UserError unless `what` has exactly the names that its owner expects. cure: what to do, for the message."""
    for names, message in ((wanted - given, "lacks"), (given - wanted, f"has entries that the {owner} lacks:")):
        if names:
            first, more = sorted(names)[:3], len(names) - 3
            raise UserError(
                f"the {what} {message} {', '.join(first)}" + (f" and {more} more" if more > 0 else "") + f".\n{cure}"
            )


def check_state(name: str, state: Any, names: Iterable[str]) -> None:
    """Raise UserError unless the state is a dictionary with exactly these keys, as `state_dict` returns it."""
    if not isinstance(state, Mapping):
        raise UserError(f"{name} is {shown(state)}; it must be the dictionary that state_dict() returned")
    wanted, given = dict.fromkeys(names), dict.fromkeys(state)
    lacks, more = [key for key in wanted if key not in given], [key for key in given if key not in wanted]
    if lacks or more:
        raise UserError(
            f"{name} {'lacks' if lacks else 'has'} {', '.join(map(shown, (lacks or more)[:3]))}; it must have "
            f"{', '.join(map(repr, wanted)) or 'no entries'}: load the state of a run with the same arguments"
        )


def check_text(name: str, value: Any) -> None:
    """Raise UserError unless the value is a string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is {shown(value)}; it must be a string")


def check_memory(what: str, size: int, cure: str = "give a smaller one", there: float | None = None) -> None:
    """Raise UserError if `what` needs more than `there` bytes (default: memory_left()), before the OOM killer acts."""
    if there is None:
        there = memory_left()
    if size > there:
        raise UserError(f"{what} needs at least {_readable(size)} of memory; there are {_readable(there)} left: {cure}")


def _readable(size: float) -> str:
    if size >= 2**30:
        return f"{size / 2**30:,.1f} GiB"
    return f"{size / 2**20:,.{0 if size >= 10 * 2**20 else 1}f} MiB"


def memory_left() -> float:
    """Return the bytes left under this process's limit (`limit_memory`, ulimit -d), or else the machine's memory."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit != resource.RLIM_INFINITY:
            return min(memory_of_machine(), limit - memory_used())
    return memory_of_machine()


def memory_used() -> int:
    """Return the bytes that count against RLIMIT_DATA: this process's private, writable memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE")


def left_of_limit(megabytes: float, before: int) -> float:
    """Return the bytes left under a limit of `megabytes` (MiB) on top of the bytes this process used `before`.

    Raise UserError for a limit above the machine's memory.
    """
    check_number("--memory-mb", megabytes, "above 0")
    if megabytes * 2**20 > memory_of_machine():
        raise UserError(
            f"--memory-mb is {megabytes:g}; this machine has {memory_of_machine() / 2**20:.0f} MiB: give less"
        )
    return max(0.0, megabytes * 2**20 - (memory_used() - before))


def limit_memory(megabytes: float, before: int) -> None:
    """Limit this process to `megabytes` (MiB) on top of the bytes it used `before`.

    Raise UserError if the system cannot limit memory.
    """
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (before + int(megabytes * 2**20), hard))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"--memory-mb is {megabytes:g}, but this system cannot limit memory: {error}") from error
    _limits.append(megabytes)


_limits: list[float] = []  # set by this process, in MiB


def out_of_memory(error: BaseException) -> UserError | None:
    """Return a UserError if --memory-mb caused this error, otherwise None."""
    starved = isinstance(error, MemoryError) or "can't start new thread" in str(error)
    if not (_limits and starved):
        return None
    return UserError(
        f"--memory-mb is {_limits[-1]:g}, which is too little for this run: {error or 'out of memory'}; give more"
    )


@functools.cache
def memory_of_machine() -> int | float:
    """Return the bytes of main memory, or of the container's limit; infinity if the system reports neither."""
    sizes: list[int | float] = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # "max" means no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)
