"""Checks of this lesson's exercises: the single-process run, and the ledger."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lessons.report import Report
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.models import Model
from minitrain.observe.ledger import Ledger
from minitrain.parallel.data_parallel import TAG, sync_gradients
from minitrain.sharding import shard_of
from minitrain.train.checkpoint import gather

from .lesson import apart, replicas_equal, train

STEPS, B, SEED = 3, 8, 1  # 8 samples: on three ranks 3, 3 and 2


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    """Return the bytes that all ranks together send in one data-parallel step.

    The model has this many float32 parameters; a ring all-reduce sums the gradients.
    """
    return 2 * (ranks - 1) * 4 * parameters


# Checks ---------------------------------------------------------------------------------------------------------------


def check_07_1(world: Communicator, shard_of: Callable[[int, int, int], slice], report: Report) -> None:
    """Check for consecutive ranges that cover everything once, as even as possible, longer ones first."""
    for n, parts in ((6, 3), (8, 3), (9, 4), (2, 4), (0, 2), (5, 1)):
        runs = [shard_of(n, parts, i) for i in range(parts)]
        kind = f"shard_of({n}, {parts}, 0) returns {runs[0]!r}; it must be a slice of whole numbers (// divides, not /)"
        if not report.true("slices", all(map(_whole_slice, runs)), kind):
            return
        shown = ", ".join(f"{run.start}:{run.stop}" + (f":{run.step}" if run.step else "") for run in runs)
        told = f"shard_of({n}, {parts}, i) for i = 0..{parts - 1} gives {shown}"
        covered = [k for run in runs for k in range(n)[run]]
        once = f"{told}: every k in 0..{n - 1} must come once, in order"
        report.true("cover", covered == list(range(n)), once, shown)
        lengths = [len(range(n)[run]) for run in runs]
        even = max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)
        report.true("even", even, f"{told}: lengths {lengths} must differ by at most 1, the longer first", str(lengths))


def _whole_slice(run: Any) -> bool:
    return isinstance(run, slice) and all(isinstance(k, (int, type(None))) for k in (run.start, run.stop, run.step))


def check_07_2(world: Communicator, sync: Callable, report: Report) -> None:
    """Check that training equals one process at the cost of a ring, and that every gradient of a list is summed."""
    same_as_one_process(world, lambda comm, *run: train(comm, *run, sync=sync), report)
    ring = RingCommunicator(world)
    arrays = [np.full(n, 10.0**world.rank) for n in (5, 2, 3)]
    sync(arrays, ring)
    expected = float(sum(10**rank for rank in range(world.size)))
    for i, array in enumerate(arrays):
        told = (
            f"of a list of {len(arrays)} gradients, number {i} on rank {{rank}} holds {{got}}; the sum is {{expected}}"
        )
        report.equal("every gradient", array.tolist(), [expected] * len(array), told)


def check_07_3(world: Communicator, train: Callable, report: Report) -> None:
    """Check that the repaired program equals one process at the cost of a ring."""
    same_as_one_process(world, lambda comm, *run: train(comm, *run, sync=sync_gradients), report)


def check_07_4(world: Communicator, bytes_of_a_step: Callable[[int, int], int], report: Report) -> None:
    """Compare the prediction with what a ring sends."""
    for ranks in range(world.size, 0, -1):
        group = RingCommunicator(world.subgroup(range(ranks))) if world.rank < ranks else None
        for n in (1000, 4810):
            with Ledger().open() as ledger:
                if group is not None:
                    group.all_reduce(np.zeros(n, np.float32), TAG)
            sent = sum(world.gather_objects(ledger.bytes[TAG]))
            got = bytes_of_a_step(n, ranks)
            report.equal("bytes", got, sent, f"{n} parameters on {ranks} ranks: you say {{got}}, counted {{expected}}")


# Reference ------------------------------------------------------------------------------------------------------------

Train = Callable[..., tuple[list[float], Model]]


def same_as_one_process(world: Communicator, run: Train, report: Report) -> None:
    """Compare losses, parameters, replicas and each rank's bytes: SGD, float64, a batch that divides unevenly."""
    data = toy()
    with Ledger().open() as once:
        serial, alone = train(world_of_one(), data, STEPS, SEED)
    ring = RingCommunicator(world)
    with Ledger().open() as ledger:
        result = run(ring, data, STEPS, SEED)
    if not report.true("result", _right_kind(result), f"train returned {type(result).__name__}, not (losses, model)"):
        return
    losses, model = result
    gaps = apart(losses, serial)
    first = next((i for i, gap in enumerate(gaps) if not gap <= 1e-12), 0)
    report.close("loss", max(gaps), 1e-12, f"the loss differs from the run on one process from step {first} on")
    mine, true = gather(model, world), gather(alone, world_of_one())
    gap = max(float(np.abs(mine[path] - true[path]).max()) for path in true)
    report.close("parameters", gap, 1e-12, f"after {STEPS} steps the parameters are not those of one process")
    report.true("replicas", replicas_equal(world, model), "the ranks' parameters are not equal")
    work = sum(world.gather_objects(ledger.flops)) / once.flops
    report.true("work", work == 1, f"all ranks together did {work:.2f} times the work of one process", work)
    sizes = [bucket.size for bucket in dict.fromkeys(p.bucket for p in model.parameters())]
    theory = STEPS * sum(ring_bytes(n, 8, world.size, world.rank) for n in sizes)
    counted = ledger.bytes.total()
    sentence = f"rank {{rank}} sent {{got:,}} bytes by its communicator in {STEPS} steps; a ring sends {{expected:,}}"
    if not counted:
        sentence += ". Only collectives of `group` are counted, not gather_objects, nor a library such as mpi4py itself"
    report.equal("bytes", counted, theory, sentence)


def _right_kind(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Model) and len(result[0]) == STEPS


def ring_bytes(n: int, item: int, ranks: int, rank: int) -> int:
    """Return the bytes this rank sends in a ring all-reduce of n elements: twice, all shards but one."""
    kept = sum(cut.stop - cut.start for cut in (shard_of(n, ranks, (rank + ahead) % ranks) for ahead in (0, 1)))
    return (2 * n - kept) * item


def toy() -> ArrayLoader:
    """Return 20 synthetic images: the third batch of 8 holds only 4, so one rank has two and the others one."""
    random = np.random.default_rng(0)
    return ArrayLoader(random.normal(size=(20, 64)), random.integers(0, 10, 20), B, SEED)
