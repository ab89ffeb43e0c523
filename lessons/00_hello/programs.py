"""Small programs for several ranks. lesson.py starts them; so can you.

mpirun -n 3 python lessons/00_hello/programs.py {six_lines,crash,plain,facing,lines}
"""

# %% What we need
import os
import sys
from typing import TextIO

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.environment import launched
from minitrain.runtime.output import print_in_order


# %% Something to predict
def six_lines(world: Communicator, file: TextIO | None = None) -> None:
    """What is printed?"""
    mine = world.rank
    if world.rank == 2:
        mine = 10
    everyone = world.gather_objects(mine)
    mine += everyone[world.rank - 1]
    print_in_order(world, f"rank {world.rank} has {mine}", file)


# %% One rank fails: inside launch(), and without it
def crash(world: Communicator) -> None:
    """Rank 1 raises; the others wait for it in a barrier."""
    print_in_order(world, f"rank {world.rank} is process {os.getpid()}")
    if world.rank == 1:
        raise ZeroDivisionError("a deliberate mistake")
    world.barrier()


def plain() -> None:
    """Crash in the same way, with mpi4py alone around it."""
    from mpi4py import MPI  # here, since this line starts MPI

    from minitrain.comm.mpi import MPICommunicator

    crash(MPICommunicator(MPI.COMM_WORLD))


# %% Two ranks that face each other
def facing(world: Communicator) -> None:
    """Each of two ranks sends to the other and completes its send before it receives."""
    other = 1 - world.rank
    for size in (8, 4_000_000):
        x = np.zeros(size, np.uint8)  # one byte per element
        world.send(x, other, ("pair", "exchange")).wait()
        world.receive(x, other, ("pair", "exchange"))
        print_in_order(world, f"{size:,} bytes have arrived at rank {world.rank}")


# %% Two ways to print
def lines() -> None:
    """Every rank prints a line as soon as it starts; then rank 0 prints a line for each."""
    print(f"raw {launched()[1]}\n", end="", flush=True)  # known from mpirun, before MPI is initialized
    with minitrain.launch() as world:
        print_in_order(world, f"said {world.rank}")


def main() -> None:
    inside, alone = {"six_lines": six_lines, "crash": crash, "facing": facing}, {"plain": plain, "lines": lines}
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name in alone:
        alone[name]()
    elif name in inside:
        with minitrain.launch() as world:
            inside[name](world)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
