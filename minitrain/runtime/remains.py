"""The files that MPI keeps while a job runs, and leaves behind when the job is aborted.

MPICH has one segment of shared memory a job in /dev/shm, of 2 to 8 MB. It takes the file away when all ranks reach the
end, and not when one of them calls Abort: a container's 64 MB are full after some ten mistakes, and the next job dies
of a bus error. Once all ranks have mapped the segment nobody needs its name, so it goes at the start: the memory stays
until the last rank has ended, however it ends.
"""

import contextlib
import os
import shutil
from pathlib import Path

from ..errors import UserError

A_RANK, BASE = 2**20, 2**18  # bytes of shared memory: of each rank, and of a job
SHARED = Path("/dev/shm")  # where Linux has POSIX shared memory; macOS shows it nowhere
SEGMENTS = ("mpich_shm_", "ucx_shm_", "sm_segment", "vader_segment")  # MPICH's, and Open MPI's
TOPOLOGY = "hydra_hwloc_xmlfile_"  # MPICH's mpirun writes the machine's plan there, for MPI_Init to read


def unlink_own() -> None:
    """Take away the names of this job's files. All ranks of the job have left MPI_Init."""
    for path in (*_mapped("self", "mpich_shm_"), *_opened(os.getppid(), TOPOLOGY)):
        with contextlib.suppress(OSError):  # another rank was faster
            path.unlink()


def check_room(rank: int, ranks: int) -> None:
    """Raise UserError when shared memory has less room than so many ranks of MPICH need: MPI_Init would crash."""
    need = max(ranks, 2) * A_RANK + BASE
    if not SHARED.is_dir() or (free := shutil.disk_usage(SHARED).free) >= need:
        return
    if rank != 0:
        raise SystemExit(2)  # without a word: rank 0 has it
    raise UserError(
        f"{SHARED} has {free / 2**20:.1f} MiB left, and {ranks} rank(s) need {need / 2**20:.2f} MiB of shared memory "
        "there; what fills it, and what helps: python -m minitrain doctor"
    )


def abandoned() -> list[Path]:
    """Segments of this user in shared memory that no process maps any more."""
    if not (SHARED.is_dir() and hasattr(os, "getuid")):
        return []
    used = {path for process in Path("/proc").glob("[0-9]*") for path in _mapped(process.name, "")}
    return [path for path in sorted(SHARED.iterdir()) if path not in used and _is_ours(path)]


def kind(path: Path) -> str:
    """How the names of segments like this one begin; "" for a file that MPI did not make."""
    return next((prefix for prefix in SEGMENTS if path.name.startswith(prefix)), "")


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return kind(path) != "" and path.stat().st_uid == os.getuid()
    return False


def _mapped(process: str, prefix: str) -> set[Path]:
    """Files in shared memory whose names begin so, and that the process has in its memory."""
    try:
        lines = Path("/proc", process, "maps").read_text("utf-8", "replace").splitlines()
    except OSError:  # it has ended, or this system has no /proc
        return set()
    return {Path(line[line.index("/") :]) for line in lines if f" {SHARED}/{prefix}" in line}


def _opened(process: int, prefix: str) -> list[Path]:
    """Files whose names begin so, and that the process has opened."""
    found = []
    with contextlib.suppress(OSError):  # it is another user's, or this system has no /proc
        for link in Path("/proc", str(process), "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(link.readlink())
    return [path for path in found if path.name.startswith(prefix)]
