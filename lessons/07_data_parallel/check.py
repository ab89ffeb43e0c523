"""Checks of this lesson's exercises: the single-process run, and the ledger."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from minitrain import sharding
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks, outcome
from minitrain.models import Model
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam
from minitrain.parallel.data_parallel import TAG, sync_gradients
from minitrain.train.checkpoint import gather

from .lesson import apart, replicas_equal
from .lesson import train as model_solution

STEPS, B, SEED = 3, 8, 1  # 8 samples: on three ranks 3, 3 and 2
FAIR = 1.25  # a rank may send this many times its equal part: more than uneven pieces need, less than a star


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
        wrong = [i for i, run in enumerate(runs) if not _whole_slice(run)]
        told = f"shard_of({n}, {parts}, {wrong[0]}) returns {runs[wrong[0]]!r}" if wrong else ""
        kind = f"{told}; it must be a slice whose ends are whole numbers (use //, not /)"
        if not report.true("slices", not wrong, kind, told):
            return
        shown = ", ".join(f"{run.start}:{run.stop}" + (f":{run.step}" if run.step else "") for run in runs)
        told = f"shard_of({n}, {parts}, i) for i = 0..{parts - 1} gives {shown}"
        covered = [k for run in runs for k in range(n)[run]]
        once = f"{told}: every k in 0..{n - 1} must occur once, in order"
        report.true("cover", covered == list(range(n)), once, shown)
        lengths = [len(range(n)[run]) for run in runs]
        even = max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)
        report.true(
            "even", even, f"{told}: the lengths {lengths} must differ by at most 1, the longer ones first", str(lengths)
        )
        row = [0, *(run.stop for run in runs)]
        border = f"{told}: each must start where the one before it stops, even if it is empty"
        report.true("borders", [run.start for run in runs] == row[:-1] and row[-1] == n, border, shown)
    for i in (2, -1):
        found = outcome(shard_of, (5, 2, i))
        told = f"shard_of(5, 2, {i}) {found}; there is no part {i}, so it must raise ValueError"
        report.true("error", found.raised.startswith("ValueError"), told, str(found))
    if report.ok:
        agrees(report, shard_of, sharding.shard_of, SHARDS)


SHARDS = st.integers(1, 6).flatmap(
    lambda parts: st.tuples(
        st.integers(0, 20) | st.sampled_from((97, 1000)), st.just(parts), st.integers(-2, parts + 1)
    )
)


def _whole_slice(run: Any) -> bool:
    return isinstance(run, slice) and all(isinstance(k, (int, np.integer)) for k in (run.start, run.stop))


def check_07_2(world: Communicator, sync: Callable, report: Report) -> None:
    """Check that training equals one process at the cost of a ring, and that every gradient of a list is summed."""
    same_as_one_process(world, lambda comm, *run: model_solution(comm, *run, sync=sync), report)
    ring = RingCommunicator(world)
    arrays = [np.full(n, 10.0**world.rank) for n in (5, 2, 3)]
    given = list(arrays)
    sync(given, ring)
    expected = float(sum(10**rank for rank in range(world.size)))
    for i, array in enumerate(arrays):
        told = (
            f"in a list of {len(arrays)} gradients, gradient {i} on rank {{rank}} is {{got}}; the sum is {{expected}}"
        )
        report.equal("every gradient", array.tolist(), [expected] * len(array), told)
    kept = [id(array) for array in given] == [id(array) for array in arrays]
    told = f"the caller's list had {len(arrays)} gradients and has {len(given)} now"
    told = "the caller's list now holds other arrays" if len(given) == len(arrays) else told
    report.true("list", kept, f"{told}; only the numbers in the arrays may change", len(given))
    if all(world.gather_objects(report.ok)):
        agrees_on_ranks(report, sync, sync_gradients, st.sampled_from(SPECIAL), summed)
    if all(world.gather_objects(report.ok)):
        agrees_on_ranks(report, sync, sync_gradients, GRADIENTS, summed, examples=5)
    if all(world.gather_objects(report.ok)):
        cut_as_told(world, sync, report)


class Watched(RingCommunicator):
    """Communicator that records the shards that its collectives are given."""

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.given: list[sharding.Shards | None] = []

    def _check_shards(self, n: int, shards: sharding.Shards | None) -> None:
        self.given.append(shards)
        super()._check_shards(n, shards)


def cut_as_told(world: Communicator, sync: Callable, report: Report) -> None:
    """Claim that the collectives cut a gradient at the shards given: here rank 0 has all of it."""
    ring, n = Watched(world), 4
    shards, gradient = [slice(0, n), *[slice(n, n)] * (world.size - 1)], np.ones(n)
    sync([gradient], ring, shards)
    told = "with `shards` given, gradient[0] on rank {rank} is {got}; the sum is {expected}"
    report.equal("sum of shards", gradient[0], float(world.size), told)
    cut = all(given == shards for given in ring.given)
    told = (
        f"sync_gradients was given `shards`, but a collective was called with the shards {_other(ring.given, shards)}"
    )
    report.true("shards", cut, f"{told}: pass them on", cut)


def _other(given: list[sharding.Shards | None], shards: sharding.Shards) -> sharding.Shards | None:
    return next((each for each in given if each != shards), None)


class Gradients(NamedTuple):
    """Arguments of sync_gradients. Rank r has these gradients, times number r of `times`."""

    gradients: list[list[float]]
    times: tuple[int, ...]
    dtype: str

    def __repr__(self) -> str:
        return f"sync_gradients of {self.times}[rank] * {self.gradients} in {self.dtype}"


SPECIAL = (
    Gradients([[1.0, 2.0]], (0, 1, 2, 3), "float64"),
    Gradients([[0.0], [1.0]], (1, 2, 3, 4), "float32"),
    Gradients([[1.0], [2.0]], (1, 0, 0, 2), "float32"),
    Gradients([[np.nan, 1.0], [2.0, -np.inf]], (1, 1, 1, 1), "float32"),
    Gradients([[4097.0], [0.0]], (1, 1, 1, 1), "float32"),
)
GRADIENTS = st.builds(
    Gradients,
    st.lists(st.lists(st.sampled_from((0.0, 1.0, -2.0, 0.5, 4097.0)), min_size=1, max_size=5), min_size=1, max_size=3),
    st.tuples(*[st.integers(-2, 3)] * 4),
    st.sampled_from(("float32", "float64")),
)


def summed(sync: Callable, comm: Communicator, given: Gradients) -> list[list[float]]:
    """Return this rank's gradients after the call."""
    arrays = [np.array(row, given.dtype) * np.array(given.times[comm.rank], given.dtype) for row in given.gradients]
    sync(list(arrays), RingCommunicator(comm))
    return [array.tolist() for array in arrays]


def check_07_3(world: Communicator, train: Callable, report: Report) -> None:
    """Check that the fixed program equals one process at the cost of a ring, whatever its arguments."""
    same_as_one_process(world, lambda comm, *run: train(comm, *run, sync=sync_gradients), report)
    if all(world.gather_objects(report.ok)):
        agrees_on_ranks(report, train, model_solution, st.sampled_from(RUNS), trained, close=1e-9)
    if all(world.gather_objects(report.ok)):
        single = RUNS[1]._replace(dtype="float32")
        agrees_on_ranks(report, train, model_solution, st.just(single), trained, close=1e-4)


class Run(NamedTuple):
    """Arguments of train. With a batch smaller than the number of ranks, some ranks have no samples."""

    samples: int
    batch: int
    steps: int
    seed: int
    optimizer: str
    lr: float
    dtype: str = "float64"

    def __repr__(self) -> str:
        called = f"steps={self.steps}, seed={self.seed}, {self.optimizer}, lr={self.lr}"
        return f"train({self.samples} samples of {self.dtype} in batches of {self.batch}, {called})"


RUNS = (
    Run(3, 2, 2, 0, "SGD", 0.1),
    Run(5, 4, 5, 3, "SGD", 0.05),
    Run(7, 5, 2, 2, "Adam", 0.1),
    Run(4, 4, 0, 1, "SGD", 0.1),
)


def trained(train: Callable, comm: Communicator, given: Run) -> dict[str, Any]:
    """Return the losses, the length of each parameter, and how often the gradients were summed."""
    data, calls = toy(given.samples, given.batch, given.dtype), [0]
    rule = {"SGD": SGD, "Adam": Adam}[given.optimizer]

    def sync(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        sync_gradients(*arguments, **options)

    losses, model = train(RingCommunicator(comm), data, given.steps, given.seed, rule, given.lr, sync)
    lengths = [float(np.linalg.norm(p.data)) for p in model.parameters()]
    kinds = sorted({str(p.data.dtype) for p in model.parameters()})
    return {"losses": list(losses), "calls of sync": calls[0], "lengths of parameters": lengths, "dtypes": kinds}


def check_07_4(world: Communicator, bytes_of_a_step: Callable[[int, int], float], report: Report) -> None:
    """Compare the prediction with what a ring sends, and with the formula for other sizes."""
    for ranks in range(world.size, 0, -1):
        group = RingCommunicator(world.subgroup(range(ranks))) if world.rank < ranks else None
        for n in (1000, 4810):
            with Ledger().open() as ledger:
                if group is not None:
                    group.all_reduce(np.zeros(n, np.float32), TAG)
            sent = sum(world.gather_objects(ledger.bytes[TAG]))
            got = bytes_of_a_step(n, ranks)
            near = isinstance(got, (int, float, np.number)) and abs(got - sent) <= 1e-9 * sent
            report.true(
                "bytes", near, f"{n} parameters on {ranks} ranks: you return {got!r}, the ledger counts {sent}", got
            )
    if all(world.gather_objects(report.ok)) and not world.rank:
        sizes, many = st.sampled_from((1, 0, 2, 7, 1000, 7_500_000_000)), st.sampled_from((1, 2, 3, 5, 4, 8, 64))
        agrees(report, bytes_of_a_step, formula, st.tuples(sizes, many), close=1e-9, name="bytes_of_a_step")


# Reference ------------------------------------------------------------------------------------------------------------

Train = Callable[..., tuple[list[float], Model]]


def formula(parameters: int, ranks: int) -> float:
    """Return bytes_of_a_step as a float: a student's result may be one, rounded in its last digit."""
    return float(bytes_of_a_step(parameters, ranks))


def same_as_one_process(world: Communicator, run: Train, report: Report) -> None:
    """Compare losses, parameters, replicas and bytes: SGD, float64, a batch that divides unevenly."""
    serial, true, flops = alone()
    ring = RingCommunicator(world)
    with Ledger().open() as ledger:
        result = run(ring, toy(), STEPS, SEED)
    if not report.true("result", _right_kind(result), f"train returned {type(result).__name__}, not (losses, model)"):
        return
    losses, model = result
    gaps = apart(losses, serial)
    first = next((i for i, gap in enumerate(gaps) if not gap <= 1e-12), 0)
    report.close("loss", max(gaps), 1e-12, f"the loss differs from the run on one process from step {first} on")
    mine = gather(model, world)
    gap = max(float(np.abs(mine[path] - true[path]).max()) for path in true)
    report.close("parameters", gap, 1e-12, f"after {STEPS} steps the parameters differ from those of one process")
    report.true("replicas", replicas_equal(world, model), "the parameters differ between ranks")
    work = sum(world.gather_objects(ledger.flops)) / flops
    report.true("work", work == 1, f"all ranks together did {work:.2f} times the work of one process", work)
    sizes = [bucket.size for bucket in dict.fromkeys(p.bucket for p in model.parameters()) if bucket is not None]
    theory, counted = 2 * (world.size - 1) * 8 * sum(sizes) * STEPS, ledger.bytes.total()
    total = sum(world.gather_objects(counted))
    sentence = f"all ranks sent {{got:,}} bytes by their communicators in {STEPS} steps; a ring sends {{expected:,}}"
    if not total:
        sentence += ". Only collectives of `group` are counted, not gather_objects, nor a library such as mpi4py itself"
    report.equal("bytes", total, theory, sentence)
    most = FAIR * theory / world.size
    sentence = (
        f"rank {{rank}} sent {counted:,} of the {total:,} bytes; on a ring, each sends about 1/{world.size} of them"
    )
    report.true("fair", counted <= most, sentence.format(rank=world.rank), counted)


@cache
def alone() -> tuple[list[float], dict[str, np.ndarray], int]:
    """Return the losses, the parameters and the FLOPs of the run on one process."""
    with Ledger().open() as ledger:
        losses, model = model_solution(world_of_one(), toy(), STEPS, SEED)
    return losses, gather(model, world_of_one()), ledger.flops


def _right_kind(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Model) and len(result[0]) == STEPS


def toy(samples: int = 20, batch: int = B, dtype: str = "float64") -> ArrayLoader:
    """Return synthetic images: of 20, the third batch of 8 holds only 4, so one of 3 ranks has two, the others one."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(samples, 64)).astype(dtype)
    return ArrayLoader(inputs, random.integers(0, 10, samples), batch, SEED)
