"""What the environment tells a process before MPI, NumPy or a backend is loaded: its rank, and how long to wait."""

import os

from .errors import UserError, check_number, shown

# (family, variable of the rank, variable of the size)
LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE"),
)


def launched() -> tuple[str, int, int]:
    """Return (launcher's family, rank, number of processes) from the environment; ("", 0, 1) without mpirun.

    Raise UserError if the variables are not numbers.
    """
    for family, rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return family, _number(rank), _number(size)
    return "", 0, 1


def _number(variable: str) -> int:
    value = os.environ[variable]
    if not (value.isascii() and value.isdigit()):
        raise UserError(f"{variable} is {shown(value)}; mpirun sets it to a number: unset it, or start with mpirun")
    return int(value)


def waiting(limit: float | None) -> float:
    """Return the seconds that ranks wait for one that is stuck: `limit`, else MINITRAIN_WAIT, else 60.

    Raise UserError unless it is a number above 0.
    """
    if limit is not None:
        check_number("wait", limit, "above 0")
        return limit
    text = os.environ.get("MINITRAIN_WAIT", "60")
    try:
        seconds = float(text)
    except ValueError:
        raise UserError(f"MINITRAIN_WAIT is {shown(text)}; it must be a number of seconds, above 0") from None
    check_number("MINITRAIN_WAIT", seconds, "above 0")
    return seconds
