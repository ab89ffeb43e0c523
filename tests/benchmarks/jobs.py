"""Measurements in processes of their own: each starts with clean memory and one thread, and cannot outlive its limit.

    result(python("step", "20M", 15))                           one process
    result(mpirun(2, "ddp", "ours", "20M", 5))                  ranks of ours
    result(*gloo(2, "ddp", "theirs", "20M", 5))                 ranks of PyTorch

A measurement is `python -m tests.benchmarks.NAME ...`; the last line that it prints (under mpirun: that rank 0 prints)
is its result, as JSON.
"""

import faulthandler
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

JOB = "MINITRAIN_BENCHMARK"  # set for a measurement
LIMIT = 300.0  # seconds for one measurement
ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class Failed(Exception):
    """A measurement that gave no result."""


def python(module: str, *arguments: object, launcher: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """Starts a measurement."""
    command = [*launcher, sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    environment = {**os.environ, **ONE_THREAD, JOB: "1", **environment}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)


def mpirun(n: int, module: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a measurement on n ranks of MPI."""
    from minitrain.runtime.launchers import find_mpirun  # not above: it imports minitrain, which changes the allocator

    command = find_mpirun()
    if command is None:
        raise Failed("there is no mpirun: see python -m minitrain doctor")
    return python(module, *arguments, launcher=[command, "-n", str(n)])


def gloo(n: int, module: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """Starts a measurement on n ranks of torch.distributed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(n)}
    return [python(module, *arguments, RANK=str(rank), **meeting) for rank in range(n)]


def result(*processes: subprocess.Popen[str]) -> Any:
    """What the first one found. Raises Failed when one of them fails or takes too long; none is left running."""
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
    """Ends those that still run; politely first, since mpirun has ranks to take along."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def begin() -> None:
    """To be called by each measurement: when its time is up, it says where it stands and ends, whoever started it."""
    if JOB not in os.environ:
        sys.exit("measurements are started by python -m tests.benchmarks.bench, which gives them one thread")
    faulthandler.dump_traceback_later(LIMIT, exit=True)


def report(found: Any) -> None:
    """Prints the result of a measurement."""
    print(json.dumps(found), flush=True)
