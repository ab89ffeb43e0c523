"""The equivalence matrix: every strategy compared with the run on one process. `make matrix`, `make matrix FULL=1`.

Prints a table and writes build/matrix.json. The status is 1 if a row fails or is missing.
"""

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import minitrain
from minitrain.comm.ring import RingCommunicator
from minitrain.runtime.mpirun import find_mpirun
from minitrain.train.progress import Progress
from tests.equivalence.cover import MESHES, cases, name
from tests.equivalence.harness import Row, same_as_serial

OUT = Path("build/matrix.json")
LIMIT = 20.0  # seconds per row


def main() -> int:
    """Start a job for each number of ranks and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all combinations instead of a cover of all pairs")
    parser.add_argument("--ranks", type=int, choices=MESHES, help="only the rows for this number of ranks")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # marks this process as one of the ranks
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows:
        return as_rank(arguments.rows, arguments.full, arguments.first)
    sizes = [n for n in MESHES if arguments.ranks in (None, n)]
    rows, wanted = [], [case for case in cases(arguments.full) if case[0] in sizes]
    for ranks in sizes:
        names = [name(*pair) for pair in wanted if pair[0] == ranks]
        print(f"{len(names)} rows on {ranks} ranks", flush=True)
        done = 0
        while done < len(names):
            found = run_job(ranks, arguments.full, done, len(names))
            rows += found
            done += len(found)
            if done < len(names):  # skip the row without a result
                print(f"NO RESULT: {names[done]}", flush=True)
                done += 1
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)
    missing = len(wanted) - len(rows)
    bad = [row for row in rows if not row["ok"]]
    print(f"{len(rows)} rows, {len(bad)} not ok, {missing} without a result; written to {OUT}")
    return int(missing > 0 or bool(bad))


def run_job(ranks: int, full: bool, first: int, count: int) -> list[dict]:
    """Return the rows for one number of ranks, `count` in all, from row `first` on, up to one that crashes or times
    out."""
    mpirun = find_mpirun()
    if mpirun is None:
        sys.exit("there is no mpirun: see python -m minitrain doctor")
    file = OUT.parent / f"matrix-{os.getpid()}-{ranks}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    command = [mpirun, "-n", str(ranks), sys.executable, "-m", "tests.equivalence.matrix"]
    command += ["--rows", str(file), "--first", str(first)] + ["--full"] * full
    job = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    seen, changed = 0, time.monotonic()
    with Progress().task(f"{ranks} ranks", count, "rows", first) as task:
        while job.poll() is None and time.monotonic() - changed < LIMIT:
            time.sleep(0.2)
            done = len(file.read_text().splitlines())
            if done > seen:
                task.advance(done - seen)
                seen, changed = done, time.monotonic()
    job.kill()
    job.wait()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return rows


def as_rank(file: Path, full: bool, first: int) -> int:
    """Run the rows for this number of ranks. Rank 0 writes each as a line."""
    faulthandler.dump_traceback_later(LIMIT - 2, exit=True)  # if a row hangs, print each rank's stack
    with minitrain.launch() as world:
        worlds = {"mpi": world, "ring": RingCommunicator(world)}  # one ring: MPICH has 2048 communicators per process
        for case in [case for ranks, case in cases(full) if ranks == world.size][first:]:
            faulthandler.dump_traceback_later(LIMIT - 2, exit=True)
            row = same_as_serial(worlds[case.comm], case)
            if world.rank == 0:
                with file.open("a") as lines:
                    lines.write(json.dumps(asdict(row)) + "\n")
    faulthandler.cancel_dump_traceback_later()
    return 0


def show(rows: list[dict]) -> None:
    """Print the table: differences from the serial run, bytes and memory as multiples of the formula."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("strategy", "mesh", "comm", "optimizer", "dtype", "k", "clip", "rc"):
        table.add_column(heading, no_wrap=True)
    for heading in ("loss", "grad", "param", "bytes", "memory", "ok"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in (Row(**row) for row in rows):
        table.add_row(
            r.strategy, r.mesh, r.comm, r.optimizer, r.dtype,
            str(r.accumulate), str(r.clip or "-"), str(r.recompute or "-"),
            f"{r.max_dloss:.0e}", f"{r.max_dgradient:.0e}", f"{r.max_dparameter:.0e}",
            ratio(r.bytes, r.bytes_theory) + ("*" if r.bytes_kind == "charged" else " "),
            ratio(r.memory, r.memory_theory), "ok" if r.ok else "NO",
        )  # fmt: skip
    Console(width=100, highlight=False, markup=False).print(table)
    print("loss, grad, param: largest difference from the run on one process; k: micro-batches; rc: recompute")
    print("bytes, memory: measured / formula; *: sent inside MPI, charged at a ring's price")
    print("+pad: with ignored labels; +from: from the files of a GPT-2")


def ratio(measured: int | None, theory: int) -> str:
    """Format measured / theory. "1" appears only if the two are equal."""
    if measured is None:
        return "-"
    return "1" if measured == theory else f"{measured / theory:.4f}"


if __name__ == "__main__":
    sys.exit(main())
