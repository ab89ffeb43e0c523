"""Measure the machine at hand: the FLOP/s that a rank reaches in training, and the links between ranks.

    FLOP/s         counted FLOPs / seconds of an update of a small GPT, while all ranks compute
    alpha, beta    all-reduces of several sizes, fitted to 2 (N - 1) (alpha + beta bytes / N), the planner's formula

Wall time varies on a machine that others use, so each figure is the median of several rounds.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from .. import blas
from ..backend import xp
from ..comm.communicator import Communicator
from ..comm.threads import world_of_one
from ..data.loader import TextLoader
from ..models import GPTConfig, gpt
from ..optim import AdamW
from ..train.trainer import Trainer
from .bounds import least_memory
from .estimate import flops_of
from .machines import Computer, altered
from .setup import Setup
from .sizes import Sizes
from .step import Rank

ROUNDS, BATCH = 7, 8
LARGEST, MOST_BYTES = 2e11, 2**30  # of an update to measure
SMALL = Sizes("gpt", 68, 128, 4, 4, 256)
MESSAGES = (2**6, 2**12, 2**16, 2**19, 2**22)  # bytes
TAG = ("mesh", "measure")


def measured(world: Communicator, computer: Computer, sizes: Sizes) -> tuple[Computer, list[str]]:
    """Return the computer with the rates of this machine, and lines that tell them. All ranks must call it.

    sizes: the model to train, if it is a GPT whose update takes at most LARGEST FLOPs and MOST_BYTES; otherwise a small
    one.
    """
    small = sizes if trains_here(sizes) else SMALL
    world.barrier()
    rate = sum(world.gather_objects(flop_rate(small, BATCH))) / world.size
    found = altered(computer, flops=rate, peak=max(blas.rate() * 1e9, rate))
    what = "training a small GPT" if small is SMALL else "training"
    lines = [f"measured on {world.size} rank(s): {rate / 1e9:.1f} GFLOP/s of a rank in {what}"]
    if world.size > 1:
        alpha, beta = link(world)
        found = altered(found, latency=alpha, bandwidth=1 / beta)
        lines[0] += f", {alpha * 1e6:.0f} us (alpha), {1 / beta / 1e9:.2f} GB/s (1 / beta)"
    else:
        lines.append("alone, with links as in the preset: to measure ranks that share a machine, use mpirun -n 4")
    return found, lines


def trains_here(sizes: Sizes) -> bool:
    """Return whether an update is short enough to be repeated, and this library has such a model."""
    if sizes.family != "gpt" or sizes.hidden != 4 * sizes.width:
        return False
    setup = Setup(sizes, BATCH)
    return sum(least_memory(setup).values()) <= MOST_BYTES and flops_of(setup) <= LARGEST


def flop_rate(sizes: Sizes, batch: int) -> float:
    """Return the FLOP/s of one rank in training a GPT of these sizes, `batch` sequences per update."""
    s = sizes
    model = gpt(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width, tied=s.tied))
    ids = np.random.default_rng(0).integers(0, s.vocabulary, 50 * s.length, dtype=np.int32)
    trainer = Trainer(model, world_of_one(), optimizer=AdamW, schedule=1e-4, seed=1)
    updates = trainer.each_update(TextLoader(ids, s.length, batch, seed=1), ROUNDS + 2)
    for _ in range(2):
        next(updates)
    seconds = median_of(lambda: next(updates))
    trainer.close()
    return Rank(Setup(sizes, batch), (0, 0, 0)).update().flops / seconds


def link(world: Communicator) -> tuple[float, float]:
    """Return (alpha in seconds, beta in seconds per byte) of the ranks, from all-reduces. All ranks must call it."""
    n, found = world.size, []
    for nbytes in MESSAGES:
        x = xp.ones(nbytes // 4, np.float32)
        world.all_reduce(x, TAG)
        found.append(median_of(lambda x=x: world.all_reduce(x, TAG), world.barrier))  # type: ignore[misc]
    hops = 2 * (n - 1)
    return fitted([nbytes / n for nbytes in MESSAGES], [seconds / hops for seconds in found])


def fitted(nbytes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return (alpha, beta) of seconds = alpha + beta nbytes with the least sum of squared relative errors."""
    t = np.array(seconds)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([1 / t, np.array(nbytes) / t], axis=1), np.ones(len(t)), rcond=None)
    return max(float(alpha), 0.0), max(float(beta), 1e-15)


def median_of(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the median seconds of `run` over ROUNDS rounds, each after `before`."""
    seconds = []
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
