"""What mpirun tells the processes that it starts. Readable before MPI, NumPy or a backend is there."""

import contextlib
import os
import sys

from ..errors import UserError

# (family, variable of the rank, variable of the size)
LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE"),
)


def launched() -> tuple[str, int, int]:
    """(launcher's family, rank, number of processes), from the environment; ("", 0, 1) without mpirun.

    Raises UserError when the environment has no numbers there.
    """
    for family, rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return family, _number(rank), _number(size)
    return "", 0, 1


def _number(variable: str) -> int:
    value = os.environ[variable]
    if not (value.isascii() and value.isdigit()):
        raise UserError(f"{variable} is {value!r}; mpirun sets it to a number: unset it, or start with mpirun")
    return int(value)


def tell(error: UserError) -> int:
    """Prints the error as a line, on rank 0: one is enough. Returns the status to end with."""
    with contextlib.suppress(UserError):
        if launched()[1] != 0:
            return 2
    print(f"minitrain: error: {error}", file=sys.stderr)
    return 2
