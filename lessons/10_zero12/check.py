"""Checks of this lesson's exercises: the single-process run, data parallel bit for bit, and the ledger."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator, ring_all_gather
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks
from minitrain.models import MLPConfig, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Optimizer, Owned, clip_grad_norm
from minitrain.parallel.parallelize import REDUCERS, Make, parallelize
from minitrain.parallel.reducer import Reducer, require
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import GRADIENTS, NORM, PARAMETERS, Zero1
from minitrain.sharding import Shards, shard_of
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

from .drawn import CLIPS, EACH, PARTS, RANKS, SPECIAL_CLIPS, SPECIAL_STEPS, STEPS_TWICE, clipped, stepped
from .lesson import KINDS, STAGES

STEPS, B, SEED, LR = 3, 8, 1, 0.1  # 8 samples: on three ranks 3, 3 and 2
FAIR = 1.25  # a rank may send this many times its equal part: more than uneven pieces need, less than a star
BUCKET = 0.001  # MiB: several buckets, none divisible by 3
CLIP = 0.25  # shorter than each gradient of the toy run
PAST = ". Only collectives of `group` are counted, not gather_objects, nor a library such as mpi4py itself"


# Exercises whose model solution is not in the library ----------------------------------------------------------------


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    """Return the slice of each parameter that this rank owns. Parameter k is an array of sizes[k] >= 1 numbers.

    The parameters lie end to end in a bucket, in this order. The bucket is divided into one shard per rank, as by
    shard_of(n, parts, i): consecutive, as even as possible, longer ones first. Each slice counts from the start of its
    parameter; it is slice(0, 0) if the rank's shard contains none of it.
    """
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        lo, hi = max(mine.start - begin, 0), min(mine.stop - begin, size)
        parts.append(slice(lo, hi) if lo < hi else slice(0, 0))
        begin += size
    return parts


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    """Do one ZeRO-1 step. Afterwards w on every rank is what data parallel would have computed.

    w: (n), all parameters of a bucket. g: (n), this rank's part of their gradient, which may be overwritten.
    update(piece of w, its gradient) is the optimizer: it updates the piece in place. Its first call fixes the length of
    its state, so the piece must be this rank's shard_of(n, parts, i) in every step. A shard may be empty.
    """
    mine = shard_of(len(w), group.size, group.rank)
    update(w[mine], group.reduce_scatter(g, GRADIENTS))
    group.all_gather(w, PARAMETERS)


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Scale the gradient down to norm `limit` > 0 if it is longer; return its original norm.

    shards: this rank's shard of each bucket's gradient, changed in place. All ranks' shards form the gradient. A shard
    may be empty, and the gradient may be 0. The result is the same on all ranks, bit for bit.
    """
    square = np.array([sum(float(g @ g) for g in shards)])
    group.all_reduce(square, NORM)
    norm = float(square[0]) ** 0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm


def bytes_of_a_rank(parameters: float, ranks: int, stage: int, each: tuple[float, float, float] = (2, 2, 12)) -> float:
    """Return the mean bytes per rank at the optimizer step for this ZeRO stage: 0 (data parallel) to 3.

    each: the bytes of a parameter, its gradient and its optimizer state, undivided. The default is half precision with
    Adam. How many GB (1e9 bytes) is that for 7.5e9 parameters on 64 ranks?
    """
    parameter, gradient, state = each
    divided = (0, state, gradient + state, parameter + gradient + state)[stage]
    return parameters * (sum(each) - divided + divided / ranks)


# Checks ---------------------------------------------------------------------------------------------------------------


def check_10_1(world: Communicator, owned_parts: Callable, report: Report) -> None:
    """Check that every number has one owner, as in the library's buckets, and that the optimizer steps on it."""
    for sizes, ranks in (((4, 2), 3), ((5, 3), 3), ((2, 7, 1), 4), ((1, 1, 1), 2), ((2, 1), 4), ((3, 2), 1)):
        parts = [owned_parts(list(sizes), ranks, rank) for rank in range(ranks)]
        wrong = next((part for part in parts if not _slices(part, len(sizes))), None)
        told = f"owned_parts({list(sizes)}, {ranks}, rank)"
        sentence = (
            f"{told} returns {wrong!r}; it must be a list of {len(sizes)} slices whose ends are whole numbers from 0 on"
        )
        if not report.true("slices", wrong is None, sentence):
            return
        said = "; ".join(f"rank {rank} {_shown(part)}" for rank, part in enumerate(parts))
        owners = [sum(k in range(n)[part[i]] for part in parts) for i, n in enumerate(sizes) for k in range(n)]
        sentence = f"{told} gives {said}: numbers with no owner: {owners.count(0)}, with several: "
        report.true("one owner", set(owners) == {1}, f"{sentence}{sum(n > 1 for n in owners)}", said)
        bounds = [sum(sizes[:i]) for i in range(len(sizes))]
        for rank, part in enumerate(parts):
            cut = shard_of(sum(sizes), ranks, rank)
            mine = [at + k for at, n, p in zip(bounds, sizes, part, strict=True) for k in range(n)[p]]
            of = f"of the bucket's {sum(sizes)} numbers, rank {rank} of {ranks} owns {cut.start}:{cut.stop}"
            report.true("share", mine == list(range(sum(sizes)))[cut], f"{told} gives {said}; {of}", str(mine))
        empty = [part for part in parts if any(cut.start >= cut.stop and cut != slice(0, 0) for cut in part)]
        sentence = f"{told} returns {empty[0] if empty else ''}; an empty part must be slice(0, 0)"
        report.true("empty", not empty, sentence, str(empty[:1]))
    if report.ok and not world.rank:
        listed = lambda *given: list(owned_parts(*given))  # a tuple is right as well
        agrees(report, listed, REFERENCE["parts"], PARTS, name="owned_parts")
    if all(world.gather_objects(report.ok)):
        ring = RingCommunicator(world)
        by_map = partial(ByMap, owned_parts=owned_parts)
        ours, plain = train(ring, 1, Adam, kind=by_map), train(ring, 1, Adam)
        sentence = "if the library trains with these parts, its parameters differ from those of ZeRO-1"
        report.true("library", ours.bits == plain.bits, sentence)
        held = "with these parts rank {rank}'s optimizer holds {got:,} bytes; its shards need {expected:,}"
        report.equal("state", ours.held["optimizer"], plain.held["optimizer"], held)


def check_10_2(world: Communicator, zero1_step: Callable, report: Report) -> None:
    """Check SGD, where gradient size matters, and Adam: the numbers, what is sent, what every rank holds."""
    ring, theirs = RingCommunicator(world), RingCommunicator(world, all_gather=gather_of_the_whole)
    for optimizer in (momentum, Adam):
        name = "Adam" if optimizer is Adam else "SGD with momentum"
        ours = train(theirs, 0, optimizer, kind=partial(ByHand, step=zero1_step, rule=optimizer))
        plain, sharded, gap = train(ring, 0, optimizer), train(ring, 1, optimizer), ours.gap(alone(optimizer))
        allowed = 1e-12 if optimizer is momentum else 1e-9  # near a gradient of 0, Adam amplifies the last digit
        report.close(
            "parameters", gap, allowed, f"{name}: after {STEPS} steps, parameters differ from those of one process"
        )
        everybody = world.gather_objects(ours.bits)
        same = all(other == everybody[0] for other in everybody)
        report.true("replicas", same, f"{name}: the parameters differ between ranks")
        sent, theory = (sum(world.gather_objects(run.sent)) for run in (ours, plain))
        sentence = f"{name}: all ranks sent {{got:,}} bytes in {STEPS} steps; data parallel sends {{expected:,}}"
        more = f", and this is {sent / theory:.2f} times as much" if sent > theory else ""
        report.equal("bytes", sent, theory, sentence + (more if sent else PAST))
        sentence = (
            f"{name}: rank {world.rank} sent {ours.sent:,} of the {sent:,} bytes; each must send about 1/{world.size}"
        )
        report.true("fair", ours.sent <= FAIR * theory / world.size, sentence, ours.sent)
        sentence = f"{name}: rank {{rank}}'s optimizer holds {{got:,}} bytes; its shards need {{expected:,}}"
        report.equal("state", ours.held.get("optimizer", 0), sharded.held["optimizer"], sentence)
    if all(world.gather_objects(report.ok)):
        agrees_on_ranks(report, zero1_step, REFERENCE["step"], SPECIAL_STEPS, stepped)
    if all(world.gather_objects(report.ok)):
        agrees_on_ranks(report, zero1_step, REFERENCE["step"], STEPS_TWICE, stepped, examples=5)


def check_10_3(world: Communicator, clip_shares: Callable, report: Report) -> None:
    """Check gradients that can be computed by hand, then training as on one process."""
    ring = RingCommunicator(world)
    for limit, *gradients in (
        (1.0, [1, 0, 0, 1]),
        (6.5, [3, 0, 0, 4], [0, 12, 0, 0]),
        (20.0, [3, 0, 0, 4], [0, 12, 0, 0]),
    ):
        whole = [np.array(g, float) for g in gradients]
        mine = [g[shard_of(4, world.size, world.rank)].copy() for g in whole]
        with Ledger().open() as ledger:
            norm = clip_shares(list(mine), ring, limit)
        length = sum(float(g @ g) for g in whole) ** 0.5
        told = f"gradient {' and '.join(map(str, gradients))}, limit {limit:g}: "
        got = float(norm) if _number(norm) else float("nan")
        sentence = f"{told}rank {report.rank} returns {norm!r}; the norm is {length:.15g}"
        report.true("length", abs(got - length) < 1e-12, sentence, got)
        factor = min(1.0, limit / length)
        right = [factor * g[shard_of(4, world.size, world.rank)] for g in whole]
        off = any(float(np.abs(a - b).max()) > 1e-12 for a, b in zip(mine, right, strict=True))
        after = sum(world.gather_objects(sum(float(m @ m) for m in mine))) ** 0.5
        shown, due = (" and ".join(str(m.tolist()) for m in shards) for shards in (mine, right))
        sentence = (
            f"{told}rank {report.rank}'s shards are then {shown}, and the norm of the whole gradient is {after:.15g}; "
        )
        report.true(
            "shortened", not off, f"{sentence}the shards must be {due}, {factor:.15g} times what they were", shown
        )
        sent, most = sum(world.gather_objects(ledger.bytes.total())), 8 * world.size**2 * len(whole)
        sentence = f"{told}all ranks sent {sent} bytes; one number from each rank is enough" + ("" if sent else PAST)
        report.true("bytes", 0 < sent <= most, sentence, sent)
    lengths: dict[str, list[float]] = {"ours": [], "one process": []}

    def ours(reducer: Reducer) -> None:
        lengths["ours"].append(clip_shares([piece.grad for piece in reducer.owned()], ring, CLIP))

    def library(reducer: Reducer) -> None:
        lengths["one process"].append(clip_grad_norm(reducer, CLIP))

    trained, true = train(ring, 1, SGD, ours), train(world_of_one(), 0, SGD, library)
    gap = max(abs(a - b) for a, b in zip(*lengths.values(), strict=True))
    report.close("norms", gap, 1e-12, "in a training run, the norms differ from those of one process")
    report.close(
        "parameters",
        trained.gap(true),
        1e-12,
        f"after {STEPS} clipped steps, parameters differ from those of one process",
    )
    for drawn in (SPECIAL_CLIPS, CLIPS):
        if all(world.gather_objects(report.ok)):
            agrees_on_ranks(report, clip_shares, REFERENCE["clip"], drawn, clipped, close=1e-6, traffic=False)


def check_10_4(world: Communicator, bytes_of_a_rank: Callable[..., float], report: Report) -> None:
    """Compare the prediction with the ledger's count in float64 and with the paper's table."""
    ring = RingCommunicator(world)
    for stage in STAGES:
        run = train(ring, stage, Adam)
        P = sum(x.size for x in run.parameters.values())
        counted = sum(world.gather_objects(sum(run.held[kind] for kind in KINDS))) / world.size
        got = bytes_of_a_rank(P, world.size, stage, (8, 8, 16))
        got = float(got) if _number(got) else got
        sentence = f"stage {stage}, {P} parameters of (8, 8, 16) bytes on {world.size} ranks: you return {got!r}, "
        sentence += f"the ledger counts {counted:.1f} on average"
        report.true("counted", _number(got) and abs(got - counted) < 1e-6, sentence, got)
    for stage, table in enumerate((120.0, 31.4, 16.6, 1.9)):
        got = bytes_of_a_rank(7.5e9, 64, stage)
        got = float(got) if _number(got) else got
        sentence = f"stage {stage}, 7.5e9 parameters on 64 ranks, half precision: you return {got!r} bytes; the paper "
        report.true("table", _number(got) and round(got / 1e9, 1) == table, f"{sentence}has {table} GB", got)
    if all(world.gather_objects(report.ok)) and not world.rank:
        agrees(report, bytes_of_a_rank, REFERENCE["bytes"], RANKS | EACH, close=1e-9, name="bytes_of_a_rank")


# Reference ------------------------------------------------------------------------------------------------------------

REFERENCE: dict[str, Callable] = {
    "parts": owned_parts, "step": zero1_step, "clip": clip_shares, "bytes": bytes_of_a_rank,
}  # fmt: skip


class Update:
    """The library's optimizer for one piece, passed with each call. The first call creates its state."""

    factor = 1.0

    def __init__(self, optimizer: Callable[..., Optimizer]) -> None:
        self.piece: list[Owned] = []
        self.optimizer = optimizer(self)

    def owned(self) -> list[Owned]:
        return self.piece

    def norm(self) -> float:
        return sum(float(piece.grad @ piece.grad) for piece in self.piece) ** 0.5

    def __call__(self, w: Array, g: Array) -> None:
        if len(w) != len(g):
            raise ValueError(f"update was called with a piece of {len(w)} parameters and a gradient of {len(g)}")
        self.piece = [Owned(w, g, False)]
        self.optimizer.step(LR)
        self.piece = []


class ByHand(Reducer):
    """Reducer that leaves gradients local; `step` does the rest in place of the run's optimizer."""

    def __init__(self, *parts: Any, step: Callable, rule: Callable[..., Optimizer]) -> None:
        super().__init__(*parts)
        self.step, self.updates = step, {bucket: Update(rule) for bucket in self.trained}

    def owned(self) -> list[Owned]:
        return []

    def gather_parameters(self) -> None:
        for bucket, update in self.updates.items():
            self.step(require(bucket.data), require(bucket.grad), bucket.group, update)


def gather_of_the_whole(comm: Communicator, x: Array, tag: Tag, shards: Shards | None = None) -> None:
    """Run the ring's all-gather. Raise ValueError if given only a shard: MPI would report truncated messages."""
    lengths = comm.gather_objects(len(x))
    if len(set(lengths)) > 1:
        told = "it takes the whole array, which holds the rank's shard, and fills in the other shards"
        raise ValueError(f"all_gather was called with {lengths} numbers on the ranks; {told}")
    ring_all_gather(comm, x, tag, shards)


class ByMap(Zero1):
    """ZeRO-1 whose optimizer steps on parts of parameters, not on shards of buckets."""

    def __init__(self, *parts: Any, owned_parts: Callable) -> None:
        super().__init__(*parts)
        self.parts = owned_parts

    def owned(self) -> list[Owned]:
        found = []
        for bucket in self.trained:
            places = list(bucket.pieces.values())
            parts = self.parts([at.stop - at.start for at in places], bucket.group.size, bucket.group.rank)
            for at, part in zip(places, parts, strict=True):
                found.append(Owned(require(bucket.data)[at][part], require(bucket.grad)[at][part], bucket.decay))
        return found


class Outcome(NamedTuple):
    """Result of a run on one rank. sent: bytes; held: kind -> bytes alive after the last step."""

    parameters: dict[str, np.ndarray]
    sent: int
    held: dict[str, int]

    @property
    def bits(self) -> dict[str, bytes]:
        return {path: x.tobytes() for path, x in self.parameters.items()}

    def gap(self, other: "Outcome") -> float:
        """Return the largest difference of a parameter."""
        return max(float(np.abs(x - other.parameters[path]).max()) for path, x in self.parameters.items())


def train(
    world: Communicator,
    stage: int,
    optimizer: Callable[..., Optimizer],
    clip: Callable[[Reducer], None] = lambda reducer: None,
    kind: Make | None = None,
) -> Outcome:
    """Train a few steps in float64. kind: replaces the library's reducer."""
    strategy = Strategy(zero=stage, bucket_mb=BUCKET)
    reducers: Mapping[str, Make] = {**REDUCERS, strategy.reducer: kind} if kind else REDUCERS
    ledger = Ledger()
    with ledger.open():
        model = mlp(MLPConfig(hidden=(5, 4), dtype="float64"))
        reducer = parallelize(model, Mesh(world, dp=world.size), strategy, reducers=reducers)
        reducer.init(SEED)
        update = optimizer(reducer)
        for number in range(STEPS):
            compute_gradients(model, toy().batch(number).part(world.rank, world.size), reducer)
            clip(reducer)
            update.step(LR)
            reducer.gather_parameters()
    sent, held = ledger.bytes.total(), dict(ledger.live)
    return Outcome(gather(model, world, reducer=reducer), sent, held)


@cache
def alone(optimizer: Callable[..., Optimizer]) -> Outcome:
    """Return the result of the run on one process."""
    return train(world_of_one(), 0, optimizer)


def momentum(reducer: Any) -> SGD:
    return SGD(reducer, momentum=0.5)


def _slices(parts: Any, n: int) -> bool:
    """Return whether it is a list of n slices with non-negative integer ends."""
    if not _all(parts, slice) or len(parts) != n or any(part.step not in (None, 1) for part in parts):
        return False
    return all(isinstance(end, (int, np.integer)) and end >= 0 for p in parts for end in (p.start, p.stop))


def _all(things: Any, kind: type) -> bool:
    return isinstance(things, (list, tuple)) and all(isinstance(thing, kind) for thing in things)


def _shown(parts: Sequence[slice]) -> str:
    return " ".join(f"{part.start}:{part.stop}" for part in parts)


def _number(got: Any) -> bool:
    return isinstance(got, (int, float, np.number))


def toy() -> ArrayLoader:
    """Return 20 synthetic images: the third batch of 8 holds only 4, so one rank has two and the others one."""
    random = np.random.default_rng(0)
    return ArrayLoader(random.normal(size=(20, 64)), random.integers(0, 10, 20), B, SEED)
