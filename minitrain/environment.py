"""What the environment tells a process, or should tell it, before MPI, NumPy or a backend is loaded."""

import os
from contextlib import suppress
from pathlib import Path

from .errors import UserError, check_number, shown

# (family, variable of the rank, variable of the size)
LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE"),
)

CPU = Path("/proc/cpuinfo")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")  # read by BLAS


def for_blas() -> dict[str, str]:
    """Return the variables that BLAS should find when NumPy is imported, unless the user has set them.

    One thread, since the ranks share the cores. AMD's Zen 4 has AVX-512 but computes each such instruction in two
    halves: OpenBLAS's kernels with AVX2 are 7% faster there, which saves 5% of a training step.
    """
    return dict.fromkeys(THREADS, "1") | ({"OPENBLAS_CORETYPE": "Zen"} if _is_zen4() else {})


def _is_zen4() -> bool:
    """Return whether this processor is of family 25, which is AMD's Zen 3 and 4, and has AVX-512, which Zen 3 lacks."""
    with suppress(OSError):
        with CPU.open() as file:
            first = file.read(4096).partition("\n\n")[0]  # about the first core
        words = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in first.splitlines())}
        return words.get("cpu family") == ["25"] and "avx512f" in words.get("flags", [])
    return False


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


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def progress_style() -> str | None:
    """Return how progress is shown, MINITRAIN_PROGRESS: "rich", a bar, or "plain", lines; None: as the terminal allows.

    Raise UserError for any other value.
    """
    style = os.environ.get("MINITRAIN_PROGRESS") or None
    if style not in (None, "rich", "plain"):
        raise UserError(f"MINITRAIN_PROGRESS is {shown(style)}; it must be rich (a bar) or plain (lines)")
    return style
