"""`python -m minitrain doctor`: check whether mpirun works on this machine, and suggest fixes if it does not.

Every check reports what it found and, if something is wrong, how to fix it. MPI runs only in child processes with a
time limit, since a broken MPI may hang or abort.
"""

import os
import platform
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ..backend import xp
from ..environment import THREADS, cores
from . import leftover_files, speed_checks
from .child import child
from .mpirun import family_of, find_mpirun


@dataclass(frozen=True)
class Finding:
    """One line of the report. A finding with a cure is a problem; if `fatal`, it prevents training."""

    what: str
    found: str
    cure: str = ""
    fatal: bool = True

    @property
    def ready(self) -> bool:
        """Whether training can start, according to this check."""
        return not (self.cure and self.fatal)


def examine(seconds: float) -> int:
    """Print the report. Return 0 if no fatal check failed, else 1. seconds: time limit of the two-rank run."""
    print(f"Checking this machine; the two-rank run may take up to {seconds:.0f} s.", flush=True)
    found = [*findings(seconds), _blas(), *([_loops()] if xp is np else [])]
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found"):
        table.add_column(heading)
    for f in found:
        table.add_row("ok" if not f.cure else "FAIL" if f.fatal else "note", f.what, f.found)
    console = Console(width=100 if shutil.get_terminal_size().columns >= 100 else 80, highlight=False, markup=False)
    console.print(table)
    for f in found:
        if f.cure:
            console.print(f"\n{f.what}: {f.cure}")
    return int(not all(f.ready for f in found))


def findings(seconds: float) -> list[Finding]:
    """Run all checks and return their findings in the order of the report. seconds: limit of the two-rank run."""
    found = [
        check() for check in (_python, _library, _mpirun, _root, _signals, _cores, _threads, _host, _shared_memory)
    ]
    return [*found, _two_ranks(seconds)]


def _python() -> Finding:
    found = f"Python {platform.python_version()}, NumPy {np.__version__}, {sys.executable}"
    return Finding("Python", found, "" if sys.version_info >= (3, 10) else "minitrain needs Python 3.10 or newer")


def _library() -> Finding:
    """Find the MPI library that mpi4py loads, in a child process."""
    status, output = child([sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"], 20)
    if status == 0:
        return Finding("MPI library", family_of(output) or output.strip()[:60])
    lines = output.strip().splitlines()
    return Finding(
        "MPI library",
        lines[-1][:60] if lines else "mpi4py cannot be loaded",
        f"install an MPI into this environment: {sys.executable} -m pip install 'mpich>=5,<6'",
    )


def _mpirun() -> Finding:
    """Check that mpirun belongs to this Python and to the same MPI as the library."""
    local = Path(sys.executable).parent / "mpirun"
    first = shutil.which("mpirun")
    if first is None and not local.exists():
        return Finding("mpirun", "none", f"install an MPI: {sys.executable} -m pip install 'mpich>=5,<6'")
    if local.exists() and (first is None or not Path(first).samefile(local)):
        cure = f"run {local}, or activate the environment first: source {local.parent}/activate"
        return Finding("mpirun", f"{first or 'not on the PATH'}; this Python's own is {local}", cure, fatal=False)
    _, version = child([first or str(local), "--version"], 20)
    launcher, library = family_of(version), family_of(_library().found)
    if launcher and library and launcher != library:
        cure = f"{launcher}'s mpirun cannot start programs that use {library}: use the mpirun of the same MPI"
        return Finding("mpirun", f"{first} ({launcher}), but the library is {library}", cure)
    return Finding("mpirun", f"{first or local} ({launcher or 'unknown'})")


def _root() -> Finding:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return Finding("user", "not root")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"} <= set(os.environ)
    if "Open MPI" not in _library().found or allowed:
        return Finding("user", "root")
    cure = "Open MPI refuses root: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    return Finding("user", "root", cure)


def _signals() -> Finding:
    """Say what becomes of a run whose mpirun is sent a signal, by Ctrl-C or a scheduler."""
    if "Open MPI" not in _library().found:
        return Finding("signals", "a run that is interrupted saves first")
    cure = "send signals to the ranks, not to mpirun, or save often: train --save-every 100"
    return Finding("signals", "mpirun kills its ranks 0.3 s after a signal, too soon to save", cure, fatal=False)


def _cores() -> Finding:
    cure = "" if cores() > 1 else "two ranks will share one core: everything works, but nothing gets faster"
    return Finding("cores", str(cores()), cure, fatal=False)


def _threads() -> Finding:
    """Check that BLAS uses one thread per rank, minitrain's default if the environment does not override it."""
    many = [f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name, "1") != "1"]
    if not many:
        return Finding("threads", "1 per rank")
    cure = f"the ranks will compete for the cores: unset {' '.join(item.split('=')[0] for item in many)}"
    return Finding("threads", ", ".join(many), cure, fatal=False)


def _blas() -> Finding:
    """Measure matrix products with the BLAS in use, and with the others that there are."""
    found, cure = speed_checks.look_at_blas()
    return Finding("BLAS", found, cure, fatal=False)


def _loops() -> Finding:
    """Measure updates of weights by Adam, and whether compiled loops would be faster."""
    found, cure = speed_checks.look_at_loops()
    return Finding("loops", found, cure, fatal=False)


def _host() -> Finding:
    """Check that the host name resolves, as MPI requires; on some networks this fails or takes minutes."""
    name = socket.gethostname()
    if _within(5, lambda: socket.getaddrinfo(name, None)):
        return Finding("host name", f"{name} resolves")
    cure = "if mpirun hangs at the start: export MPICH_INTERFACE_HOSTNAME=localhost, or add the name to /etc/hosts"
    return Finding("host name", f"{name} does not resolve", cure, fatal=False)


def _shared_memory() -> Finding:
    """Check the free space in /dev/shm, which local ranks share; if there is none, MPI dies with "Bus error"."""
    if not leftover_files.SHARED.is_dir():
        return Finding("/dev/shm", "no /dev/shm on this system")
    free, left = shutil.disk_usage(leftover_files.SHARED).free, leftover_files.abandoned()
    found = f"{free / 2**20:,.0f} MiB free in {leftover_files.SHARED}"
    few = free < 8 * leftover_files.A_RANK
    if left:
        size = sum(path.stat().st_size for path in left) / 2**20
        names = " ".join(sorted({f"{leftover_files.SHARED}/{leftover_files.kind(path)}*" for path in left}))
        cure = f"killed jobs have left {size:,.0f} MiB there ({len(left)} files); when no job is running: rm {names}"
        return Finding("/dev/shm", found, cure, fatal=few)
    cure = 'if it is full, ranks die with "Bus error": delete files there; in a container: docker run --shm-size=1g'
    return Finding("/dev/shm", found, cure if few else "")


def _two_ranks(seconds: float) -> Finding:
    """Run an all-reduce on two ranks under mpirun."""
    mpirun = find_mpirun()
    if mpirun is None:
        return Finding("two ranks", "not tried", "there is no mpirun: install an MPI first")
    program = (
        "import minitrain.runtime.launch as m, numpy as np\n"
        "with m.launch() as world:\n"
        "    x = np.full(3, world.rank + 1.0); world.all_reduce(x, ('dp', 'doctor'))\n"
        "    assert world.size == 2 and x[0] == 3, (world.size, x)\n"
        "    print('the sum is right' if world.rank == 0 else '', end='')"
    )
    status, output = child([mpirun, "-n", "2", sys.executable, "-c", program], seconds)
    if status == 0 and "the sum is right" in output:
        return Finding("two ranks", "mpirun -n 2 works")
    if status is None:
        return Finding("two ranks", f"no result after {seconds:.0f} s", "check the host name above, and firewalls")
    return Finding("two ranks", f"status {status}", "mpirun -n 2 failed with:\n" + output.strip()[-800:])


def _within(seconds: float, question: Callable[[], object]) -> bool:
    """Return whether question() succeeds within this time; a resolver may hang for minutes."""
    answered = threading.Event()

    def ask() -> None:
        try:
            question()
        except OSError:
            return
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)
