"""What mpirun tells the processes that it starts. Readable before MPI, NumPy or a backend is there."""

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError, check_number, shown

# (family, variable of the rank, variable of the size)
LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE"),
)
SET_BY_MPIRUN = ("PMI_", "PMIX_", "HYDI_", "MPI_LOCAL", "OMPI_", "PRTE_")
# but for these: parameters, places, and the permission of root, which users set
SET_BY_USERS = ("PMIX_MCA_", "OMPI_MCA_", "PRTE_MCA_", "PMIX_PREFIX", "PRTE_PREFIX", "OMPI_ALLOW_")


def find_mpirun() -> str | None:
    """The mpirun beside this Python, which belongs to its MPI, or the first on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


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
        raise UserError(f"{variable} is {shown(value)}; mpirun sets it to a number: unset it, or start with mpirun")
    return int(value)


def family_of(text: str) -> str:
    """'MPICH' or 'Open MPI', from what a version command prints; '' when it is neither."""
    low = text.lower()
    return (
        "Open MPI"
        if "open mpi" in low or "openmpi" in low or "prte" in low
        else "MPICH"
        if "mpich" in low or "hydra" in low
        else ""
    )


def waiting(limit: float | None) -> float:
    """Seconds that ranks may wait for one that does not move: what was given, otherwise MINITRAIN_WAIT, otherwise 60.

    Raises UserError for what is not a number above 0.
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


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what mpirun has told this process.

    For a child with a job of its own: an mpirun that sees these would take itself for a rank of the job around it.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(SET_BY_MPIRUN) or name.startswith(SET_BY_USERS)
    }


def tell(error: UserError) -> int:
    """Prints the error as a line, on rank 0: one is enough. Returns the status to end with."""
    with contextlib.suppress(UserError):
        if launched()[1] != 0:
            return 2
    print(f"minitrain: error: {error}", file=sys.stderr)
    return 2


def not_installed(error: ModuleNotFoundError) -> UserError:
    """What to say of a module that this Python does not have."""
    module = str(error.name).partition(".")[0]
    return UserError(
        f"this Python ({sys.executable}) has no module {module!r}: activate the environment that `make venv` makes: "
        "source .venv/bin/activate"
    )
