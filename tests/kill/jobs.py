"""Training runs that a trial kills, signals and resumes, and the comparison of what they leave with an undisturbed run.

The model is tiny: 100 updates take a quarter of a second. Several ranks are started by mpirun, in a session of their
own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minitrain.runtime.leftover_files import abandoned
from minitrain.runtime.mpirun import find_mpirun, outside
from minitrain.train.checkpoint_folder import candidates
from minitrain.train.checkpoint_index import read_index
from tests.processes import processes

ROOT = Path(__file__).resolve().parents[2]
MODEL = "--layers 2 --width 16 --heads 2 --context 8 --batch 6 --warmup 10 --sample 0 --log-every 1000 --val-every 90"
LIMIT = 120.0  # seconds for one run
TRIAL = "MINITRAIN_TRIAL"  # a variable that names the processes of a run
RANK = ("PMI_RANK=", "OMPI_COMM_WORLD_RANK=")
TRAIN = ("minitrain",)


class Trial(NamedTuple):
    """What was done, and what was wrong then."""

    done: str
    wrong: list[str]


class Ended(NamedTuple):
    """How a run ended: its status, what it printed, and what is wrong about the end itself."""

    status: int
    said: str
    wrong: list[str]


def text_in(folder: Path) -> Path:
    """Return a small text file in a folder, made if it is not there."""
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("".join(f"{n} bottles on the wall, {n * n % 97} fell down. " for n in range(90)))
    return path


def command(folder: Path, options: str, out: str, steps: int, every: int) -> list[str]:
    """Return the arguments of a run in a folder, which saves every so many updates."""
    where = ["--text", str(text_in(folder)), "--out", str(folder / out)]
    return ["train", *MODEL.split(), *options.split(), "--steps", str(steps), "--save-every", str(every), *where]


def resume(run: Path) -> list[str]:
    """Return the arguments that continue a run."""
    return ["train", "--resume", str(run)]


class Run:
    """`train` on some ranks, in progress."""

    def __init__(self, ranks: int, arguments: Sequence[str], program: Sequence[str] = TRAIN) -> None:
        """program: a module, and its own arguments before those of the command."""
        value = uuid.uuid4().hex
        self.trial, self.ranks = f"{TRIAL}={value}", ranks
        mpirun = [str(find_mpirun()), "-n", str(ranks)] if ranks > 1 else []
        as_root = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
        more = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONPATH": str(ROOT), TRIAL: value}
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self.process = subprocess.Popen(
            [*mpirun, sys.executable, "-m", *program, *arguments],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**outside(os.environ), **as_root, **more}, start_new_session=True,
        )  # fmt: skip

    def pid(self, rank: int) -> int | None:
        """Return the process of a rank, as soon as it is there; None if the run ends before."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.ranks == 1:
                return self.process.pid
            for pid in processes("environ", self.trial):
                with contextlib.suppress(OSError):
                    variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                    if any(f"{name}{rank}" in variables for name in RANK):
                        return pid
            time.sleep(0.01)
        return None

    def send(self, number: int, *pids: int | None) -> bool:
        """Send a signal to processes of this run; without any, to the one that was started. Return whether all were
        there."""
        there = self.process.poll() is None
        for pid in pids or (self.process.pid,):
            try:
                if there and pid is not None:
                    os.kill(pid, number)
            except ProcessLookupError:
                there = False
        return there and None not in pids

    def reach(self, log: Path, rows: int) -> bool:
        """Wait until a log has this many rows. Return False if the run ends before, or takes too long."""
        return self.until(lambda: rows_of(log) >= rows)

    def until(self, reached: Callable[[], bool]) -> bool:
        """Wait for something. Return False if the run ends before, or takes too long."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            if reached():
                return True
            time.sleep(0.001)
        return False

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for the end, at most for `limit` seconds. No process of the run is left then."""
        wrong = []
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            wrong.append(f"no end after {limit:.0f} s")
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 5
        while (left := processes("environ", self.trial)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if left and not wrong:
            wrong.append(f"{len(left)} processes were left running")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with self.output:
            self.output.seek(0)
            said = self.output.read().decode(errors="replace")
        return Ended(self.process.returncode, said, [*wrong, *([said] if "Traceback" in said or wrong else [])])


def trained(ranks: int, arguments: Sequence[str]) -> str:
    """Run to the end. Return what was printed. Raise AssertionError unless the status is 0."""
    status, said, wrong = Run(ranks, arguments).end()
    assert status == 0 and not wrong, f"status {status}, {wrong}\n{said}"
    return said


# What runs leave ------------------------------------------------------------------------------------------------------


def rows_of(log: Path) -> int:
    """Return how many rows a log has; none if there is no log."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes().count(b"\n")
    return 0


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two runs that have ended differ, byte by byte: logs, models, and all of their last checkpoints."""
    found = [name for name in ("log.jsonl", "model.safetensors") if not same(one / name, other / name)]
    folders = [candidates(run)[0][0][0] for run in (one, other)]
    mine, theirs = (replace(read_index(folder), number=0, saved="") for folder in folders)  # which and when it was
    found += [f"{part} of the last index" for part, x in vars(mine).items() if x != getattr(theirs, part)]
    found += [file.name for file in mine.files if not same(*(folder / file.name for folder in folders))]
    return [f"{part} differs from the undisturbed run's" for part in found]


def same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes; not if one is missing."""
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Remove what the killed jobs have left in shared memory, at the end: what is new, and no process uses."""
    before = set(abandoned())
    try:
        yield
    finally:
        for path in set(abandoned()) - before:
            path.unlink(missing_ok=True)
