"""Training runs that a test kills, signals and resumes, and the comparison of what they leave with a run that was not.

The model is tiny: 200 updates take half a second. A run of several ranks is started by mpirun, in a session of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from minitrain.runtime.mpirun import find_mpirun, outside
from minitrain.train.checkpoint_folder import candidates, damage
from minitrain.train.checkpoint_index import read_index
from tests.processes import processes

ROOT = Path(__file__).resolve().parents[2]
MODEL = "--layers 2 --width 16 --heads 2 --context 8 --batch 6 --warmup 10 --sample 0 --log-every 1000 --val-every 90"
LIMIT = 150.0  # seconds for one run
TRIAL = "MINITRAIN_TRIAL"  # names the processes of a run
RANK = ("PMI_RANK=", "OMPI_COMM_WORLD_RANK=")


def text(folder: Path) -> Path:
    """Return a small text file in a folder, made if it is not there."""
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("".join(f"{n} bottles on the wall, {n * n % 97} fell down. " for n in range(90)))
    return path


class Run:
    """`train` on some ranks, in progress."""

    def __init__(self, ranks: int, arguments: Sequence[str], driver: Sequence[str] = ()) -> None:
        """driver: arguments of tests.kill.driver, which then runs the command."""
        self.trial, self.ranks = f"{TRIAL}={uuid.uuid4().hex}", ranks
        program = ["-m", "tests.kill.driver", *driver] if driver else ["-m", "minitrain"]
        mpirun = [str(find_mpirun()), "-n", str(ranks)] if ranks > 1 else []
        name, _, value = self.trial.partition("=")
        as_root = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
        many = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
        self.process = subprocess.Popen(
            [*mpirun, sys.executable, *program, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**outside(os.environ), **as_root, **many, "PYTHONPATH": str(ROOT), name: value},
            start_new_session=True,
        )  # fmt: skip

    def pid(self, rank: int) -> int | None:
        """Return the process of a rank; None if it is not there yet, or no longer."""
        if self.ranks == 1:
            return self.process.pid
        for pid in processes("environ", self.trial):
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                if any(f"{name}{rank}" in variables for name in RANK):
                    return pid
        return None

    def send(self, number: int, rank: int | None = None) -> bool:
        """Send a signal to a rank, or to the process that was started. Return whether it was there."""
        deadline = time.monotonic() + LIMIT
        while (pid := self.process.pid if rank is None else self.pid(rank)) is None and time.monotonic() < deadline:
            time.sleep(0.01)  # mpirun has not started it yet
        with contextlib.suppress(ProcessLookupError):
            if pid is not None and self.process.poll() is None:
                os.kill(pid, number)
                return True
        return False

    def reach(self, log: Path, lines: int) -> bool:
        """Wait until a log has this many lines. Return False if the run ends before, or takes too long."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") >= lines:
                return True
            time.sleep(0.001)
        return False

    def end(self) -> tuple[int, str]:
        """Wait for the end. Return the status, and what was printed; every process of the run has ended."""
        try:
            said = self.process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            said = f"{self.process.communicate()[0]}\nNO END AFTER {LIMIT:.0f} s"
        deadline = time.monotonic() + 5
        while (left := processes("environ", self.trial)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.process.returncode, said


def trained(ranks: int, arguments: Sequence[str]) -> str:
    """Run to the end. Return what was printed. Raise AssertionError unless the status is 0."""
    status, said = Run(ranks, arguments).end()
    assert status == 0, f"status {status}\n{said}"
    return said


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two runs differ: logs, models, and all that is in their last checkpoints."""
    found = [
        name for name in ("log.jsonl", "model.safetensors") if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    folders = [candidates(run)[0][0][0] for run in (one, other)]
    indexes = [read_index(folder) for folder in folders]
    found += [
        f"the {part} of the last checkpoint"
        for part in ("updates", "state", "mesh", "files", "tensors")
        if getattr(indexes[0], part) != getattr(indexes[1], part)
    ]
    for folder, index in zip(folders, indexes, strict=True):
        found += [trouble for number in range(len(index.files)) for trouble in damage(folder, index, number)]
    return found


def shared_memory() -> set[Path]:
    """Return MPICH's files in shared memory."""
    return set(Path("/dev/shm").glob("mpich_shm_*"))


@contextlib.contextmanager
def leaving_no_files() -> Iterator[None]:
    """Remove what killed jobs leave in shared memory, at the end."""
    before = shared_memory()
    try:
        yield
    finally:
        for path in shared_memory() - before:
            path.unlink(missing_ok=True)
