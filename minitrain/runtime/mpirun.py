"""Find mpirun, recognize its environment variables, and report failed starts."""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..environment import launched
from ..errors import UserError

SET_BY_MPIRUN = ("PMI_", "PMIX_", "HYDI_", "MPI_LOCAL", "OMPI_", "PRTE_")
# exceptions: parameters, paths, and root's permission, which users set
SET_BY_USERS = ("PMIX_MCA_", "OMPI_MCA_", "PRTE_MCA_", "PMIX_PREFIX", "PRTE_PREFIX", "OMPI_ALLOW_")


def find_mpirun() -> str | None:
    """Return the mpirun in this Python's folder, which belongs to its MPI, else the first on the PATH, or None."""
    local = Path(sys.executable).parent / "mpirun"
    return str(local) if local.exists() else shutil.which("mpirun")


def family_of(text: str) -> str:
    """Return 'MPICH' or 'Open MPI' from the output of a version command; '' if it is neither."""
    low = text.lower()
    return (
        "Open MPI"
        if "open mpi" in low or "openmpi" in low or "prte" in low
        else "MPICH"
        if "mpich" in low or "hydra" in low
        else ""
    )


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that mpirun set for this process.

    A child needs this to start its own job: an mpirun that sees them mistakes itself for a rank of the outer job.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(SET_BY_MPIRUN) or name.startswith(SET_BY_USERS)
    }


def report_error(error: UserError) -> int:
    """Print the error, on rank 0 only. Return the exit status, 2."""
    with contextlib.suppress(UserError):
        if launched()[1] != 0:
            return 2
    print(f"minitrain: error: {error}", file=sys.stderr)
    return 2


def not_installed(error: ModuleNotFoundError) -> UserError:
    """Return the UserError for a module that this Python does not have."""
    module = str(error.name).partition(".")[0]
    return UserError(
        f"this Python ({sys.executable}) has no module {module!r}: activate the environment that `make venv` creates: "
        "source .venv/bin/activate"
    )
