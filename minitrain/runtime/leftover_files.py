"""Clean up the files that MPI keeps while a job runs and leaves behind if the job is aborted.

MPICH keeps one shared-memory segment of 2 to 8 MB per job in /dev/shm. It removes the file when all ranks finish, but
not after Abort: about ten failed jobs fill a container's 64 MB, and the next job dies of a bus error. Once all ranks
have mapped the segment, its name is no longer needed, so it is unlinked at the start. The memory stays until the last
rank ends, however it ends.
"""

import contextlib
import os
import shutil
from pathlib import Path

from ..errors import UserError

A_RANK, BASE = 2**20, 2**18  # bytes of shared memory per rank and per job
SHARED = Path("/dev/shm")  # POSIX shared memory on Linux; macOS does not expose it
SEGMENTS = ("mpich_shm_", "ucx_shm_", "sm_segment", "vader_segment")  # of MPICH and Open MPI
TOPOLOGY = "hydra_hwloc_xmlfile_"  # MPICH's mpirun writes the machine's topology to this file, for MPI_Init


def unlink_own() -> None:
    """Unlink this job's files. Call it once all ranks of the job have left MPI_Init."""
    for path in (*_mapped("self", "mpich_shm_"), *_opened(os.getppid(), TOPOLOGY)):
        with contextlib.suppress(OSError):  # another rank has already removed it
            path.unlink()


def check_room(rank: int, ranks: int) -> None:
    """Raise UserError if shared memory is too small for `ranks` MPICH ranks; on ranks other than 0, exit with status 2.

    Without this check, MPI_Init would crash.
    """
    need = max(ranks, 2) * A_RANK + BASE
    if not SHARED.is_dir() or (free := shutil.disk_usage(SHARED).free) >= need:
        return
    if rank != 0:
        raise SystemExit(2)  # silently: rank 0 prints the error
    raise UserError(
        f"{SHARED} has {free / 2**20:.1f} MiB left, and {ranks} rank(s) need {need / 2**20:.2f} MiB of shared memory "
        "there; to see what fills it, run: python -m minitrain doctor"
    )


def abandoned() -> list[Path]:
    """Return this user's shared-memory segments that no process maps any more."""
    if not (SHARED.is_dir() and hasattr(os, "getuid")):
        return []
    used = {path for process in Path("/proc").glob("[0-9]*") for path in _mapped(process.name, "")}
    return [path for path in sorted(SHARED.iterdir()) if path not in used and _is_ours(path)]


def kind(path: Path) -> str:
    """Return the name prefix of the segment, one of SEGMENTS; "" for a file that is not MPI's."""
    return next((prefix for prefix in SEGMENTS if path.name.startswith(prefix)), "")


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return kind(path) != "" and path.stat().st_uid == os.getuid()
    return False


def _mapped(process: str, prefix: str) -> set[Path]:
    """Return the files in shared memory that the process maps and whose names begin with `prefix`."""
    try:
        lines = Path("/proc", process, "maps").read_text("utf-8", "replace").splitlines()
    except OSError:  # the process has ended, or this system has no /proc
        return set()
    return {Path(line[line.index("/") :]) for line in lines if f" {SHARED}/{prefix}" in line}


def _opened(process: int, prefix: str) -> list[Path]:
    """Return the files that the process has open and whose names begin with `prefix`."""
    found = []
    with contextlib.suppress(OSError):  # another user's process, or this system has no /proc
        for link in Path("/proc", str(process), "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(link.readlink())
    return [path for path in found if path.name.startswith(prefix)]
