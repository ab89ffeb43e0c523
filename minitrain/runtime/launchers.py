"""What mpirun is, what it leaves in the environment, and what to say when the start fails."""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..environment import launched
from ..errors import UserError

SET_BY_MPIRUN = ("PMI_", "PMIX_", "HYDI_", "MPI_LOCAL", "OMPI_", "PRTE_")
# but for these: parameters, places, and the permission of root, which users set
SET_BY_USERS = ("PMIX_MCA_", "OMPI_MCA_", "PRTE_MCA_", "PMIX_PREFIX", "PRTE_PREFIX", "OMPI_ALLOW_")


def find_mpirun() -> str | None:
    """The mpirun beside this Python, which belongs to its MPI, or the first on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


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
