"""All-reduce on a ring: watch the sums grow step by step, and count the bytes that every rank sends.

mpirun -n 4 python lessons/06_collectives/lesson.py [--figure FILE.svg]
"""

# %% What we need
import argparse
import math
from typing import Any

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.ring import RingCommunicator, ring_all_reduce
from minitrain.errors import UserError
from minitrain.lessons.charts import FILLS, bars, figure, squares
from minitrain.lessons.receipt import Receipt
from minitrain.observe.ledger import Ledger

TAG = ("world", "lesson")
EVEN, UNEVEN = 1200, 1001  # array lengths: 2, 3 and 4 divide EVEN, none of them divides UNEVEN
ALPHA, BETA = 1e-5, 1e-10  # seconds per message; seconds per byte, at 10 gigabytes a second


# %% The simplest algorithm: send everything to rank 0, and the sum back
def star_all_reduce(comm: Communicator, x: np.ndarray, tag: Tag) -> None:
    """Replace the flat array x by the sum over ranks."""
    if comm.rank == 0:
        arriving = np.empty_like(x)
        for other in range(1, comm.size):
            comm.receive(arriving, other, tag)
            x += arriving
        for sent in [comm.send(x, other, tag) for other in range(1, comm.size)]:
            sent.wait()
    else:
        comm.send(x, 0, tag).wait()
        comm.receive(x, 0, tag)


# %% Times: alpha seconds per message, beta seconds per byte, M bytes on N ranks
TIMES = {
    "star": lambda N, M, alpha, beta: 2 * (N - 1) * (alpha + M * beta),  # at rank 0
    "tree": lambda N, M, alpha, beta: 2 * math.ceil(math.log2(N)) * (alpha + M * beta),
    "ring": lambda N, M, alpha, beta: 2 * (N - 1) * (alpha + M / N * beta),
}


# %% A film of a run: each chunk is one number, to which rank r contributes 2**r, so that a sum shows its ranks
class Film(RingCommunicator):
    """Copies this rank's array x before each message that it sends."""

    def __init__(self, inner: Communicator, x: np.ndarray) -> None:
        super().__init__(inner)
        self.x = x
        self.pictures: list[np.ndarray] = []

    def _send(self, part: np.ndarray, to: int, number: int) -> Any:
        self.pictures.append(self.x.copy())
        return super()._send(part, to, number)


def shoot(world: Communicator) -> np.ndarray:
    """Return pictures (moment, rank, chunk): before the first step, and after each step."""
    x = np.full(world.size, 2**world.rank)
    film = Film(world, x)
    ring_all_reduce(film, x, TAG)
    return np.array(world.gather_objects([*film.pictures, x])).transpose(1, 0, 2)


def show(pictures: np.ndarray) -> None:
    """Print which ranks are in each chunk of each rank, after each step: 5 = 2**0 + 2**2 is "0.2."."""
    N = pictures.shape[1]
    wide = max(N * N + N - 1, len("after step 0"))
    print("which ranks' numbers are in each chunk\n")
    for name, steps in (("reduce-scatter", pictures[1:N]), ("all-gather", pictures[N:])):
        print(f"{name:16}" + "   ".join(f"after step {i}".ljust(wide) for i in range(N - 1)).rstrip())
        for r in range(N):
            rows = [["".join(str(i) if c >> i & 1 else "." for i in range(N)) for c in step[r]] for step in steps]
            print(f"rank {r:<11}" + "   ".join(" ".join(row).ljust(wide) for row in rows).rstrip())


# %% The measurement
def measure(comm: Communicator, all_reduce: Any, n: int) -> list[tuple]:
    """Sum n random numbers. Return lists over ranks: bytes, messages, the bits of the result, the largest error."""
    x = np.random.default_rng(comm.rank).normal(size=n).astype(np.float32)
    true = np.sum(comm.gather_objects(x), axis=0, dtype=np.float64)
    with Ledger().open() as ledger:
        all_reduce(comm, x, TAG)
    found = ledger.bytes[TAG], ledger.messages[TAG], x.tobytes(), float(np.abs(x - true).max())
    return list(zip(*comm.gather_objects(found), strict=True))


def experiment(world: Communicator, receipt: Receipt) -> dict[str, int]:
    """Measure rings of 2, 3, ... ranks and a star; fill the receipt; return the bytes of each rank."""
    bits, errors, M = [], [], 4 * EVEN
    for N in range(2, world.size + 1):
        group = world.subgroup(range(N)) if world.rank < N else None
        rings = [measure(group, ring_all_reduce, n) for n in (EVEN, UNEVEN)] if group else []
        even, uneven = world.gather_objects(rings)[0]
        receipt.equal(f"N = {N}: bytes of all ranks, {UNEVEN} numbers", 2 * (N - 1) * 4 * UNEVEN, sum(uneven[0]))
        receipt.equal(f"N = {N}: bytes of all ranks, {EVEN} numbers", 2 * (N - 1) * M, sum(even[0]))
        receipt.equal(f"N = {N}: bytes of the busiest rank", 2 * (N - 1) * M // N, max(even[0]))
        receipt.equal(f"N = {N}: messages per rank", 2 * (N - 1), max(even[1] + uneven[1]))
        bits += [len(set(even[2])), len(set(uneven[2]))]
        errors += even[3] + uneven[3]
    receipt.equal("distinct results among the ranks of a ring", 1, max(bits))
    receipt.below("largest difference from a float64 sum", 1e-5, max(errors))
    star = measure(world, star_all_reduce, EVEN)[0]
    receipt.equal("star: bytes of all ranks", 2 * (N - 1) * M, sum(star))
    receipt.equal("star: bytes of the busiest rank", (N - 1) * M, max(star))
    return {f"{name}, rank {r}": row[r] for name, row in (("star", star), ("ring", even[0])) for r in range(N)}


# %% The picture
def draw(pictures: np.ndarray, sizes: dict[str, int], path: str) -> None:
    """How many ranks are in each chunk (across) of each rank (down), at the start and after each step; the bytes."""
    N = pictures.shape[1]
    names = ["start", *(f"{phase}\nstep {i}" for phase in ("reduce-scatter", "all-gather") for i in range(N - 1))]
    with figure(path, 2, N, height=4) as axes:
        for axis, name, picture in zip(axes.flat, names, pictures.tolist(), strict=False):
            counts = [[chunk.bit_count() for chunk in row] for row in picture]
            squares(axis, counts, least=1, title=name, xlabel="chunk", ylabel="rank")
        axes.flat[0].set_title("ranks in a chunk,\nat the start")
        rows = [name.replace(", rank", "") for name in sizes]
        axes.flat[-1].barh(rows, list(sizes.values()), color=[FILLS[1]] * N + [FILLS[2]] * N)
        axes.flat[-1].invert_yaxis()
        axes.flat[-1].set(title="bytes sent", xlabel="bytes", ylabel="rank")


# %% The run
def run(world: Communicator, options: argparse.Namespace) -> None:
    """Film a ring, and measure rings and a star."""
    if not 2 <= world.size <= 4:
        raise UserError(f"this needs 2, 3 or 4 ranks, not {world.size}: mpirun -n 4 ...")
    receipt = Receipt()
    pictures, sizes = shoot(world), experiment(world, receipt)
    whole = (pictures == 2**world.size - 1).sum(axis=(1, 2)).tolist()
    receipt.equal("complete chunks after the reduce-scatter", world.size, whole[world.size - 1])
    receipt.equal("complete chunks after the all-gather", world.size**2, whole[-1])
    if world.rank == 0:
        show(pictures)
        print(f"\nbytes sent, {EVEN} numbers of 4 bytes\n{bars(sizes)}\n")
        print(f"milliseconds by formula, 64 ranks, alpha = {ALPHA:.0e} s, beta = {BETA:.0e} s per byte")
        for M in (10**3, 10**6, 10**9):
            times = (f"{name} {1000 * time(64, M, ALPHA, BETA):9,.2f}" for name, time in TIMES.items())
            print(f"{M:13,} bytes   {'   '.join(times)}")
        if options.figure:
            draw(pictures, sizes, options.figure)
    receipt.print(world)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch() as world:
        run(world, options)


if __name__ == "__main__":
    main()
