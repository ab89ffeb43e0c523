"""Measurements in separate processes: each starts with clean memory and one thread, and is killed at its time limit.

    result(python("step", "20M", 15))                           one process
    result(mpirun(2, "ddp", "ours", "20M", 5))                  our ranks
    result(*gloo(2, "ddp", "theirs", "20M", 5))                 PyTorch's ranks

A measurement is `python -m tests.benchmarks.NAME ...`, or a module with its full name; its last printed line (under
mpirun: of rank 0) is its result in JSON.
"""

import faulthandler
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

JOB = "MINITRAIN_BENCHMARK"  # set for a measurement
LIMIT = 300.0  # seconds for one measurement
ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class Failed(Exception):
    """Raised if a measurement gave no result."""


def python(
    module: str,
    *arguments: object,
    launcher: Sequence[str] = (),
    limit: float = LIMIT,
    own: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a measurement. own: in a session of its own, with its errors among what it prints."""
    name = module if "." in module else f"tests.benchmarks.{module}"
    command = [*launcher, sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if own else None,
        start_new_session=own,
        text=True,
        env={**os.environ, **ONE_THREAD, JOB: str(limit), **(environment or {})},
    )


def mpirun(n: int, module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a measurement on n MPI ranks."""
    from minitrain.runtime.mpirun import find_mpirun  # not at the top: importing minitrain changes the allocator

    command = find_mpirun()
    if command is None:
        raise Failed("there is no mpirun: see python -m minitrain doctor")
    return python(module, *arguments, launcher=[command, "-n", str(n)])


def gloo(n: int, module: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """Start a measurement on n ranks of torch.distributed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(n)}
    return [python(module, *arguments, environment={"RANK": str(rank), **meeting}) for rank in range(n)]


def result(*processes: subprocess.Popen[str]) -> Any:
    """Return the first process's result. Raise Failed if one fails or takes too long; none is left running."""
    try:
        outputs = [process.communicate(timeout=LIMIT + 10)[0] for process in processes]
    except subprocess.TimeoutExpired as error:
        raise Failed(str(error)) from error
    finally:
        end(processes)
    statuses = [process.returncode for process in processes]
    if any(statuses) or not outputs[0].strip():
        raise Failed(f"{processes[0].args!r} ended with status {statuses} and printed: {outputs[0]}")
    return json.loads(outputs[0].splitlines()[-1])


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End the processes still running: terminate first, since mpirun has to end its ranks."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def begin() -> None:
    """Called by each measurement: when its time is up, print its position and exit, whoever started it."""
    if JOB not in os.environ:
        sys.exit("measurements are started by python -m tests.benchmarks.bench or tests.gpu.run, with one thread each")
    faulthandler.dump_traceback_later(float(os.environ[JOB]), exit=True)


def report(found: Any) -> None:
    """Print the result of a measurement."""
    print(json.dumps(found), flush=True)
