"""The benchmark: our speed and memory against PyTorch's and mpi4py's. `make bench`, `make bench QUICK=1`.

Prints a table and writes build/bench.json. The parts run one after another in separate processes; each file's docstring
says what it measures, and why in this way. The numbers depend on the machine and the moment: nothing is asserted about
them, and the status is 1 only if a part gave no result.
"""

import argparse
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from minitrain import compiled
from minitrain.runtime import speed_checks
from minitrain.train.progress import Progress
from tests.benchmarks import all_reduce, ddp, memory, profile, sampling, saving, step, zero
from tests.benchmarks.jobs import Failed
from tests.benchmarks.sizes import SIZES, Row

OUT = Path("build/bench.json")

Part = tuple[str, Callable[[], list[Row]]]


def main() -> int:
    """Run all parts and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds: under two minutes")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # termination ends the child processes, too
    torch = find_spec("torch") is not None
    print(machine())
    rows, failures = [], 0
    for name, measure in parts(quick, torch):
        start = perf_counter()
        try:
            with Progress().task(name):
                rows += measure()
            print(f"{name}: {perf_counter() - start:.0f} s", flush=True)
        except Failed as error:
            failures += 1
            print(f"{name}: NO RESULT: {error}", flush=True)
    write(rows, OUT)
    show(rows)
    if not torch:
        print("PyTorch is not installed (pip install 'minitrain[oracle]'), so the rows beside it are missing")
    print(f"written to {OUT}")
    return int(failures > 0)


def machine() -> str:
    """Return what the numbers depend on: the processor, and the kernels of both sides."""
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.open() if "model name" in line] if cpu.exists() else []
    ours = f"{names[0] if names else platform.processor()}; ours: {speed_checks.described()}, {compiled.NAME}'s loops"
    if find_spec("torch") is None:
        return ours
    program = "import torch; print(torch.__version__, 'with', torch.backends.cpu.get_cpu_capability(), 'kernels', "
    program += "'and MKL' if torch.backends.mkl.is_available() else '')"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return f"{ours}; PyTorch {asked.stdout.strip()}"


def parts(quick: bool, torch: bool) -> Iterator[Part]:
    """Yield (name, function that measures it); without PyTorch, skip the parts that need it."""
    large, middle, small = (SIZES[name] for name in ("20M", "3.4M", "0.5M"))
    for size in (large, middle, small):
        yield f"step of {size.name}", partial(step.rows, size, rounds=5 if quick else 15)
        yield f"profile of {size.name}", partial(profile.rows, size, steps=5 if quick else 20)
    if torch:
        for size in (large,) if quick else (large, middle, small):
            yield f"peak memory of {size.name}", partial(memory.rows, size)
        for size in (middle,) if quick else (large, middle):
            yield f"2 ranks, {size.name}", partial(ddp.rows, size, runs=2 if quick else 5, steps=5 if quick else 10)
    yield "ZeRO", partial(zero.rows, middle if quick else large, rounds=5 if quick else 9)
    for size in (middle,) if quick else (large, middle):
        yield f"saves of {size.name}", partial(saving.rows, size, rounds=3 if quick else 7)
    for size in (middle,) if quick else (large, middle):
        yield f"tokens of {size.name}", partial(sampling.rows, size, rounds=5 if quick else 15)
    sizes = [64, 4096] if quick else [64 * 4**i for i in range(6)]
    yield "all_reduce", partial(all_reduce.rows, sizes, runs=1 if quick else 3, rounds=15, gloo=torch)


def write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


def show(rows: list[Row], console: Console | None = None) -> None:
    """Print the table in 80 columns."""
    table = Table("ours / theirs", box=None, pad_edge=False)
    for heading in ("ours", "theirs", "", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in rows:
        goal = "" if r["goal"] is None else f"{r['goal']:.2f}"
        table.add_row(r["name"], f"{r['ours']:.2f}", f"{r['theirs']:.2f}", r["unit"], f"{r['ratio']:.2f}", goal)
    (console or Console(width=80, highlight=False, markup=False)).print(table)


if __name__ == "__main__":
    sys.exit(main())
