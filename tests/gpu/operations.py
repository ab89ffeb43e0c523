"""Everything of strict_run.py on the device and on the CPU: the same numbers?

    python -m tests.gpu.operations SIZES        a part of `make gpu`

These are all operations forward and backward, whole training steps, and ranks as threads. In float32, three such steps
with NumPy differ by 2e-6 from float64; the device's may differ by as much, and somewhat more where it adds in another
order.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks import jobs
from tests.gpu import strict_run
from tests.gpu.rows import FAILED, row, without_value

BOUNDS = {"float64": 1e-10, "float32": 1e-5}
PARTS = ("operations", "models", "ranks")


def start(backend: str, part: str, dtype: str, file: Path) -> "subprocess.Popen[str]":
    """Start the process that computes a part on this backend, and writes the file."""
    options = ("--dtypes", dtype, "--only", part)
    return jobs.python("tests.gpu.strict_run", file, *options, environment={"MINITRAIN_BACKEND": backend})


def results(process: "subprocess.Popen[str]", file: Path) -> strict_run.Results:
    """Return what the process has computed. Raise Failed if it has failed."""
    try:
        output = process.communicate(timeout=jobs.LIMIT)[0]
    finally:
        jobs.end([process])
    if process.returncode:
        raise jobs.Failed(output.strip().rpartition("\n")[2] or f"ended with status {process.returncode}")
    with np.load(file) as found:
        return dict(found)


def compare(dtypes: list[str]) -> None:
    """Start all parts on both backends at once, since most of a first run compiles kernels; report as they end."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(part, dtype) for dtype in dtypes for part in PARTS]
        runs = [(backend, *pair) for pair in pairs for backend in ("numpy", "cupy")]
        files = {run: Path(folder) / f"{number}.npz" for number, run in enumerate(runs)}
        started = {run: start(*run, file) for run, file in files.items()}
        for part, dtype in pairs:
            name, both = f"{part}, {dtype}", [(backend, part, dtype) for backend in ("numpy", "cupy")]
            try:
                expected, found = (results(started[run], files[run]) for run in both)
            except jobs.Failed as error:
                jobs.report(without_value(name, FAILED, str(error)))
                continue
            worst, where = strict_run.compare(found, expected)
            bound = BOUNDS[dtype]
            jobs.report(row(name, worst, bound=bound, why="" if worst <= bound else where))


if __name__ == "__main__":
    jobs.begin()
    compare(["float64"] if sys.argv[1] == "small" else list(BOUNDS))
