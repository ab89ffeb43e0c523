"""Everything that needs a GPU, in one command of at most four minutes: `make gpu`, `SIZES=small make gpu`.

    python -m tests.gpu.run                     MINITRAIN_BACKEND is set for its parts

It says first what this Python lacks, and which parts are left out for that. Then the parts run one after another: what
is right, then what is fast, and PyTorch last. Each part has its own processes and time limit, so that a crash, a full
memory or an endless wait ends only that part. What a part leaves of its time, the next ones may use.

Each result is shown at once and written to build/gpu.json, a valid file at any moment. If the run is ended (SIGTERM,
Ctrl-C), the table shows what there is. Status: 0 if all parts that could run passed, 1 if one failed or the run was
ended, 2 if there is no CuPy or no device.

It needs NumPy and CuPy, and this folder's parent as the working directory; imports nothing of them in its own process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Timer
from time import monotonic
from typing import NamedTuple

from tests.benchmarks import jobs
from tests.gpu.rows import FAILED, LEFT_OUT, Report, beside, parsed, without_value

OUT = Path("build/gpu.json")
SIZES = ("full", "small")
PROBE = 15.0  # seconds to find the device: the first kernel is compiled
GRACE = 2.0  # seconds from SIGTERM to SIGKILL
ENVIRONMENT = {"MINITRAIN_BACKEND": "cupy", "CUPY_TF32": "0", "NVIDIA_TF32_OVERRIDE": "0"}
INSTALL = """Install CuPy, with NumPy: pip install cupy-cuda12x (cupy-cuda13x for CUDA 13).
If it finds no CUDA libraries: pip install 'cupy-cuda12x[ctk]'.
For another Python: make gpu PYTHON=...; to list the devices: nvidia-smi"""
LACKING = {  # module -> what is left out, or done otherwise, without it
    "numpy": "everything",
    "cupy": "everything",
    "mpi4py": "ranks are threads: nothing goes through host memory",
    "torch": "no times beside PyTorch",
    "tyro": "the command line, python -m minitrain, cannot run; nothing here needs it",
    "safetensors": "checkpoint files; nothing here needs them",
    "ml_dtypes": "bfloat16; nothing here needs it, and CuPy does not have it",
}


class Part(NamedTuple):
    """A module to run with its arguments. why: the reason to leave it out, if there is one."""

    name: str
    module: str
    arguments: tuple[object, ...]
    seconds: float
    launcher: tuple[str, ...] = ()
    why: str = ""


def main() -> int:
    """Run all parts; return the status."""
    sizes = os.environ.get("SIZES") or "full"
    if sizes not in SIZES:
        print(f"SIZES is {sizes!r}; allowed: {', '.join(SIZES)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the parts, too
    report, lacking = Report(OUT), ""
    report.write()  # not the last run's any more
    try:
        lacking = look(report)
        run_all(list(parts(report, sizes, lacking)), report)
        report.finished = True
    except KeyboardInterrupt:
        print("ended before all parts had run", flush=True)
    report.write()
    if not lacking:
        print(f"\n{report.table()}\n")
    print(f"{report.total()}{'' if report.finished else ', and not all parts have run'}")
    print(f"written to {OUT}", flush=True)
    failed = not report.finished or any(row["state"] == FAILED for row in report.all())
    return 2 if lacking else int(failed)


def look(report: Report) -> str:
    """Find out and say what there is and what is missing. Return why nothing can run, or ""."""
    report.missing = {name: without for name, without in LACKING.items() if find_spec(name) is None}
    probe(report)
    found, lacking = report.machine, ""
    if "device" not in found and not {"numpy", "cupy"} & report.missing.keys():
        report.missing["device"] = "everything"
        lacking = "no CUDA device"
    elif "device" not in found:
        lacking = "no CuPy"
    if not found.get("mpirun"):
        report.missing["mpirun"] = LACKING["mpi4py"]
    elif not found.get("mpi"):
        report.missing.setdefault("mpi4py", LACKING["mpi4py"])
    for name, without in report.missing.items():
        print(f"missing: {name:<12} {without}")
    if lacking:
        print(f"make gpu cannot run: {lacking} for {sys.executable}: {found.get('error')}\n{INSTALL}", flush=True)
        return lacking
    print(
        f"{found['device']}, {found['memory_gb']} GB, CuPy {found['cupy']}, CUDA {found['cuda']}; float32 without TF32",
        flush=True,
    )
    if found["stand_in"]:
        print("This is the strict stand-in for CuPy: times and memory tell nothing about a GPU.")
    return ""


def probe(report: Report) -> None:
    """Ask a process for the device and the MPI: an import may crash."""
    environment = {**ENVIRONMENT, "MINITRAIN_BACKEND": "numpy"}
    process = jobs.python("tests.gpu.probe", own=True, limit=PROBE + 5, environment=environment)
    error = "an import crashed"
    try:
        for error in lines(process, PROBE):
            with contextlib.suppress(ValueError, TypeError):
                report.machine |= json.loads(error)
    except TimeoutError:
        error = f"no answer in {PROBE:.0f} s"
    if "device" not in report.machine:
        report.machine.setdefault("error", error)


def parts(report: Report, sizes: str, why: str) -> Iterator[Part]:
    """Yield all parts. Their limits and the probe's add up to less than four minutes. why: the reason to run none."""
    small = sizes == "small"
    yield Part("equal to the CPU", "tests.gpu.models", (sizes,), 40, why=why)
    yield Part("float16", "tests.gpu.halves", (sizes,), 15, why=why)
    threads = {"mpirun", "mpi4py"} & report.missing.keys()
    for n in (2, 4):
        launcher = () if threads else (str(report.machine["mpirun"]), "-n", str(n))
        yield Part(f"{n} ranks", "tests.gpu.ranks", ("threads", n) if threads else ("mpi",), 20, launcher, why)
    steps = {"tiny": (15, 12)} if small else {"20M": (15, 12), "120M": (18, 12), "350M": (28, 16)}
    rounds = 2 if small else 10
    for name, (seconds, _) in steps.items():
        yield Part(f"step of {name}", "tests.gpu.speed", ("ours", name, rounds), seconds, why=why)
    yield Part("operations", "tests.gpu.operations", (sizes,), 28, why=why)
    if "torch" in report.missing:
        why = why or "PyTorch is not installed"
    for name, (_, seconds) in steps.items():
        part = beside(f"step of {name}")
        yield Part(part, "tests.gpu.speed", ("theirs", name, rounds, report.path), seconds, why=why)


def run_all(all_parts: list[Part], report: Report) -> None:
    """Run the parts in order. If the run is ended, add to the report which parts are missing."""
    saved, left = 0.0, list(all_parts)
    try:
        while left:
            part = left[0]
            if part.why:
                report.add(part.name, without_value(part.name, LEFT_OUT, part.why))
            else:
                print(part.name, flush=True)
                begun = monotonic()
                run(part, part.seconds + saved, report)
                report.seconds[part.name] = round(monotonic() - begun, 1)
                saved = max(0.0, saved + part.seconds - report.seconds[part.name])
            left.pop(0)
    except KeyboardInterrupt:
        for part in left:
            report.add(part.name, without_value(part.name, LEFT_OUT, "the run was ended before"))
        raise


def run(part: Part, limit: float, report: Report) -> None:
    """Run a part and add its rows; one that says why, if the part fails."""
    last, before, process = "", len(report.rows.get(part.name, ())), start(part, limit)
    try:
        for text in lines(process, limit):
            found = parsed(text)
            if found is not None:
                report.add(part.name, found)
            elif text.strip():
                print(f"    {text}", flush=True)
                last = text.strip()
        why = f"ended with status {process.returncode}: {last}" if process.returncode else ""
    except TimeoutError as error:
        why = str(error)
    if not why and len(report.rows.get(part.name, ())) == before:
        why = "gave no result"
    if why:
        report.add(part.name, without_value(part.name, FAILED, why))


def start(part: Part, limit: float) -> "subprocess.Popen[str]":
    """Start a part. It ends itself a little after its limit, should this process not be there to end it."""
    return jobs.python(
        part.module, *part.arguments, launcher=part.launcher, limit=limit + 5, own=True, environment=ENVIRONMENT
    )


def lines(process: "subprocess.Popen[str]", limit: float) -> Iterator[str]:
    """Yield what the process prints, up to its end. Raise TimeoutError if it must be ended to be gone at its limit."""
    over = Event()

    def end() -> None:
        over.set()
        stop(process)

    late = Timer(max(limit - GRACE, limit / 2), end)
    late.start()
    try:
        assert process.stdout is not None
        yield from (text.rstrip("\n") for text in process.stdout)
        process.wait()
    finally:
        late.cancel()
        stop(process)
    if over.is_set():
        raise TimeoutError(f"stopped after {limit:.0f} s")


def stop(process: "subprocess.Popen[str]") -> None:
    """End the process and all of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


if __name__ == "__main__":
    sys.exit(main())
