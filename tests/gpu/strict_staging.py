"""How device arrays reach MPI: every communicator operation on the stand-in, with its result and its copies.

    mpirun -n 3 python -m tests.gpu.strict_staging staged|direct     with the stand-in as this Python's cupy

staged: each array goes through pinned host memory, copied there if MPI reads it and back if MPI writes it. direct: MPI
gets the arrays themselves, as an MPI does that reports that it can read device memory.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minitrain.backend import to_device, to_host, xp
from minitrain.comm import mpi
from minitrain.comm.communicator import Communicator
from minitrain.runtime.launch import launch
from minitrain.sharding import shard_of

TAG = ("dp", "test")
WHOLE = np.arange(1.0, 12.0)  # 11 elements, divisible by neither 2 nor 3


class Case(NamedTuple):
    """An operation on x, which is WHOLE times (rank + 1); it returns the array to compare."""

    operation: Callable[[Communicator, Any], Any]
    expected: Callable[[int, int], np.ndarray]  # of rank, size
    reads: Callable[[int], int] = lambda rank: 1  # arrays that MPI reads
    writes: int = 1


def in_place(method: str, *arguments: Any) -> Callable[[Communicator, Any], Any]:
    def operation(world: Communicator, x: Any) -> Any:
        getattr(world, method)(x, *arguments)
        return x

    return operation


def gather(world: Communicator, x: Any) -> Any:
    """Gather every rank's shard of WHOLE."""
    x /= world.rank + 1.0
    mine = shard_of(len(x), world.size, world.rank)
    x[: mine.start] = x[mine.stop :] = -1.0
    world.all_gather(x, TAG)
    return x


def exchange(world: Communicator, x: Any) -> Any:
    """Return the previous rank's array in two dimensions."""
    got = xp.zeros((1, len(x)))
    sent = world.send(x, (world.rank + 1) % world.size, TAG)
    world.receive(got, (world.rank - 1) % world.size, TAG)
    sent.wait()
    return got


CASES = {
    "all_reduce": Case(in_place("all_reduce", TAG), lambda rank, n: WHOLE * (n * (n + 1) / 2)),
    "all_reduce max": Case(in_place("all_reduce", TAG, "max"), lambda rank, n: WHOLE * n),
    "reduce_scatter": Case(
        lambda world, x: world.reduce_scatter(x, TAG),
        lambda rank, n: WHOLE[shard_of(len(WHOLE), n, rank)] * (n * (n + 1) / 2),
    ),
    "all_gather": Case(gather, lambda rank, n: WHOLE),
    "broadcast": Case(in_place("broadcast", 1, TAG), lambda rank, n: WHOLE * 2, lambda rank: int(rank == 1)),
    "send and receive": Case(exchange, lambda rank, n: (WHOLE * ((rank - 1) % n + 1)).reshape(1, -1)),
}


def check(world: Communicator, name: str, direct: bool) -> None:
    case, x = CASES[name], to_device(WHOLE * (world.rank + 1))
    xp.COPIES.clear()
    result = case.operation(world, x)
    made = Counter(xp.COPIES)
    expected = Counter({("to host", "pinned"): case.reads(world.rank), ("to device", "pinned"): case.writes})
    assert made == (Counter() if direct else expected), f"{name}: {made}"
    np.testing.assert_array_equal(to_host(result), case.expected(world.rank, world.size), name)


def main() -> None:
    """Run from the command line as described in this file's docstring."""
    direct = {"staged": False, "direct": True}[sys.argv[1]]
    assert not mpi.DIRECT, "the MPIs from PyPI cannot read a device's memory"
    mpi.DIRECT = xp.MPI_READS_DEVICES = direct
    with launch() as world:
        for name in CASES:
            check(world, name, direct)
        if world.rank == 0:
            print(f"{world.size} ranks: {', '.join(CASES)}")


if __name__ == "__main__":
    main()
