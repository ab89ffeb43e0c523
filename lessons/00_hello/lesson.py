"""N copies of one program: in which order they print, and what happens if one fails or waits forever.

mpirun -n 4 python lessons/00_hello/lesson.py [--figure FILE.svg]
"""

# %% What we need
import argparse
import io
import re
import sys
from importlib import import_module
from typing import TextIO

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.lessons.charts import figure, squares
from minitrain.lessons.check import environment, mpirun
from minitrain.lessons.jobs import Job, job
from minitrain.lessons.receipt import Receipt
from minitrain.runtime.machine_checks import findings
from minitrain.runtime.output import print_in_order

programs = import_module("minitrain.lessons.course.00_hello.programs")  # programs.py, next to this file
NEED_MPIRUN = (  # rows of the receipt: what happens to processes, threads cannot show
    "failed checks of this machine",
    "inside launch(): the job ends in less than 5 s",
    "inside launch(): the exit status is not 0",
    "inside launch(): it names rank 1",
    "inside launch(): processes seen, left over",
    "mpi4py alone: the job still runs after 2 s",
    "mpi4py alone: processes seen, left over",
    "send, wait, receive: ranks that receive 8 bytes",
    "send, wait, receive: 4 MB still wait after 2 s",
)


# %% Every rank runs these lines, each with its own world.rank
def hello(world: Communicator, file: TextIO | None = None) -> None:
    """Print for every rank its number and what the rank before it has sent."""
    came = swap(world, np.array([10 * world.rank]))
    print_in_order(world, f"rank {world.rank} of {world.size}: the rank before me sent {came[0]}", file)


def swap(world: Communicator, x: Array) -> Array:
    """Send x to the next rank of a ring of two or more; return what the rank before has sent.

    That is a new array with the shape and dtype of x. Messages may be too large for any MPI to buffer.
    """
    arrived = np.empty_like(x)
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived


# %% The experiment: rank 0 starts jobs while the others sleep
def start(name: str, ranks: int, sign: str, patience: float) -> Job:
    """Run a program of programs.py as a separate job; end it `patience` seconds after it has printed the sign."""
    command = [*mpirun(ranks), sys.executable, str(programs.__file__), name]
    return job(command, environment(), sign, patience)


def machine(receipt: Receipt) -> None:
    """Run the doctor's checks. What they find differs between machines; all should be ok."""
    found = findings(seconds=60)
    for finding in found:
        print(f"{finding.what:<12} {'ok' if finding.ready else 'NOT OK: see lessons doctor'}")
    receipt.equal("failed checks of this machine", 0, sum(not finding.ready for finding in found))


def failures(receipt: Receipt) -> None:
    """Let rank 1 of three raise: inside launch(), and without it."""
    print("\nrank 1 raises, inside launch():")
    ended = start("crash", 3, "deliberate", patience=5.0)
    print("\n".join(f"  {line}" for line in ended.output.splitlines() if re.match("minitrain: |ZeroDiv", line)))
    receipt.true("inside launch(): the job ends in less than 5 s", ended.status is not None)
    receipt.true("inside launch(): the exit status is not 0", bool(ended.status))
    receipt.true("inside launch(): it names rank 1", "rank 1 of 3 raised" in ended.output)
    receipt.equal("inside launch(): processes seen, left over", (3, 0), (ended.seen, ended.left))
    print("rank 1 raises, with mpi4py alone:")
    hung = start("plain", 3, "deliberate", patience=2.0)
    there = hung.status is None and "deliberate" in hung.output
    print(f"  after 2 s the job {'is still running' if there else 'has ended'}")
    receipt.true("mpi4py alone: the job still runs after 2 s", there)
    receipt.equal("mpi4py alone: processes seen, left over", (3, 0), (hung.seen, hung.left))


def messages(receipt: Receipt) -> None:
    """Let two ranks send to each other and wait before they receive: a small array, then a large one."""
    print("two ranks send, wait, and then receive:")
    hung = start("facing", 2, "arrived at rank 1", patience=2.0)
    large = "4,000,000 bytes" in hung.output or hung.status is not None
    print("\n".join(f"  {line}" for line in hung.output.splitlines() if "have arrived" in line))
    print(f"  4,000,000 bytes: after 2 s the job {'has ended' if large else 'is still running'}")
    receipt.equal("send, wait, receive: ranks that receive 8 bytes", 2, len(re.findall("^8 bytes", hung.output, re.M)))
    receipt.true("send, wait, receive: 4 MB still wait after 2 s", not large)


# %% The picture
def draw(path: str, runs: int = 12) -> None:
    """Draw whose line comes first, second, ...: one column per run."""
    outputs = [start("lines", 4, "said 3", patience=5.0).output for _ in range(runs)]
    with figure(path, columns=2, height=1.8) as panels:
        for panel, word, title in zip(panels, ("raw", "said"), ("each rank prints", "rank 0 prints"), strict=True):
            ranks = np.array([[int(rank) for rank in re.findall(rf"{word} (\d)", text)] for text in outputs])
            squares(panel, ranks.T.tolist(), least=0, title=f"{title}: which rank's line", xlabel="run")
            panel.set(xticklabels=range(1, runs + 1), yticklabels=["1st line", "2nd", "3rd", "4th"])


# %% The run
def run(world: Communicator, options: argparse.Namespace, jobs: bool = True) -> None:
    """Say hello on every rank. Then rank 0 starts the jobs, which need mpirun, unless jobs is False."""
    page, receipt = io.StringIO(), Receipt()
    hello(world, page)
    if world.rank == 0:  # the others sleep at the end of launch()'s block
        print(page.getvalue())
        order = [int(rank) for rank in re.findall("^rank (.)", page.getvalue(), re.MULTILINE)]
        receipt.equal("order of the lines printed by rank 0", list(range(world.size)), order)
        if jobs:
            machine(receipt)
            failures(receipt)
            messages(receipt)
            if options.figure:
                draw(options.figure)
        else:
            receipt.need_mpirun(*NEED_MPIRUN)
        receipt.print()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="also draw the picture, into this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch() as world:
        run(world, options)


if __name__ == "__main__":
    main()
