"""Checks of this lesson's exercises: exact sums, the ledger, and a communicator that watches its sends."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from numbers import Real
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator, ring_all_gather, ring_broadcast, ring_reduce_scatter
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees, agrees_on_ranks
from minitrain.observe.ledger import Ledger
from minitrain.sharding import shard_of

from .drawn import ALPHAS, BETAS, BROADCASTS, GATHERS, RANKS, SIZES, SUMS, on_a_rank
from .lesson import TAG, TIMES

# Ranks, numbers, dtype. The check ends with the first case that fails, so the simplest one comes first.
CASES = (
    (3, 6, "float64"),
    (3, 7, "float32"),
    (3, 2, "float64"),
    (3, 0, "float32"),
    (2, 5, "float64"),
    (1, 4, "float32"),
)


def equal_size(ranks: int, alpha: float, beta: float) -> float:
    """Return the size M in bytes for which tree and ring take equally long to all-reduce. Do not round.

        T_tree = 2 ceil(log2 N) (alpha + M beta)          T_ring = 2 (N-1) alpha + 2 (N-1)/N M beta

    N = ranks >= 2. alpha: seconds per message. beta: seconds per byte. Return 0 if the ring is never slower.
    """
    levels = math.ceil(math.log2(ranks))
    return alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))


# Checks ---------------------------------------------------------------------------------------------------------------


def check_06_1(world: Communicator, reduce_scatter: Callable, report: Report) -> None:
    """Check shards of sums, maxima and minima, from the library's ring and inside its all-reduce."""
    others = [(3, 7, "float64", add) for add in (np.maximum, np.minimum)]
    for ranks, n, dtype, add in [(*case, np.add) for case in CASES] + others:
        if world.rank < ranks:
            x = digits(n, dtype, world.rank, add)
            size = x.nbytes - x[shard_of(n, ranks, world.rank)].nbytes
            trial = Trial(world.subgroup(range(ranks)), f"{case(n, ranks)}, numpy.{add.__name__}", report, size)
            mine, true = shard_of(n, ranks, world.rank), reduce(add, [digits(n, dtype, r, add) for r in range(ranks)])
            returned = trial.run(lambda comm, x=x, add=add: reduce_scatter(comm, x, TAG, add))  # type: ignore[misc]
            trial.shard_of_sum(x, digits(n, dtype, world.rank, add), true)
            trial.values("returned", returned, true[mine], "returns")
            trial.view(returned, x)
            trial.price(ranks - 1 if n >= ranks else None)
            trial.manners(ring=True)
        if not all_well(world, report):
            return
    inside(world, RingCommunicator(world, reduce_scatter, ring_all_gather), report)
    if all_well(world, report):
        agrees_on_ranks(report, reduce_scatter, ring_reduce_scatter, SUMS, on_a_rank, SIZES)


def check_06_2(world: Communicator, all_gather: Callable, report: Report) -> None:
    """Check that every rank has every shard, also inside the library's all-reduce."""
    for ranks, n, dtype in CASES:
        if world.rank < ranks:
            mine, true = shard_of(n, ranks, world.rank), digits(n, dtype, 0)
            size = true.nbytes - true[shard_of(n, ranks, (world.rank + 1) % ranks)].nbytes
            trial = Trial(world.subgroup(range(ranks)), case(n, ranks), report, size)
            x = np.full(n, -1 - world.rank, dtype)  # the values in the other shards do not matter
            x[mine] = true[mine]
            trial.run(lambda comm, x=x: all_gather(comm, x, TAG))  # type: ignore[misc]
            trial.values("gathered", x, true, "has in x")
            trial.price(ranks - 1 if n >= ranks else None)
            trial.manners(ring=True)
        if not all_well(world, report):
            return
    inside(world, RingCommunicator(world, ring_reduce_scatter, all_gather), report)
    if all_well(world, report):
        agrees_on_ranks(report, all_gather, ring_all_gather, GATHERS, on_a_rank, SIZES)


def check_06_3(world: Communicator, predicted: Callable[[int, float, float], float], report: Report) -> None:
    """Check that the two formulas give the same time at this size."""
    cases = (5, 1.0, 0.01), (4, 1e-5, 1e-10), (6, 1e-5, 1e-10), (64, 2e-6, 1e-11), (3, 1e-5, 1e-10), (2, 1e-5, 1e-10)
    for ranks, alpha, beta in cases:
        told = f"{ranks} ranks, alpha {alpha:g}, beta {beta:g}"
        with told_of(told):
            M = predicted(ranks, alpha, beta)
        told += ": you predict"
        got = float(M) if isinstance(M, Real) else type(M).__name__
        if not report.true("number", isinstance(M, Real) and M >= 0, f"{told} {M!r}, which is not a size", got):
            continue
        tree, ring = (TIMES[name](ranks, M, alpha, beta) for name in ("tree", "ring"))
        sentence = f"{told} {M:,.6g} bytes, for which the tree takes {tree:.6g} s and the ring {ring:.6g} s"
        report.true("equal times", abs(tree - ring) <= 1e-9 * tree, sentence, float(M))
    if report.ok:
        agrees(report, predicted, equal_size, st.tuples(RANKS, ALPHAS, BETAS), close=1e-9)


def check_06_4(world: Communicator, broadcast: Callable, report: Report) -> None:
    """Check that every rank receives the root's array, from every root."""
    for (ranks, n, dtype), root in [*zip(CASES, (0, 2, 1, 0, 1, 0), strict=True), ((3, 6, "float32"), 1)]:
        if world.rank < ranks:
            true, place, chunks = digits(n, dtype, 0), (world.rank - root) % ranks, min(n, ranks)
            last = place == ranks - 1
            told = f"{case(n, ranks)}, root {root}"
            trial = Trial(world.subgroup(range(ranks)), told, report, 0 if last else true.nbytes)
            x = true.copy() if place == 0 else np.full(n, -1 - world.rank, dtype)
            trial.run(lambda comm, x=x, root=root: broadcast(comm, x, root, TAG))  # type: ignore[misc]
            trial.values("received", x, true, "has in x")
            trial.price(None if n < ranks else 0 if last else ranks)
            trial.manners(ring=False)
            late = [(send.after, send.number) for send in trial.comm.sends if place and send.after > send.number]
            after, number = (*late, (1, 1))[0]
            sentence = f"rank {world.rank} sends message {number} after {after} receives"
            sentence = f"{trial.told}: {sentence}; forward a chunk as soon as it has arrived"
            report.true("pipelined", not late, sentence, f"{number} after {after}")
            idle = [send.number for send in trial.comm.sends if place and send.received < min(send.number + 1, chunks)]
            number = (*idle, 0)[0]
            sentence = (
                f"rank {world.rank} waits for its message {number} before it receives chunk {number + 1} of {chunks}"
            )
            sentence = f"{trial.told}: {sentence}; a rank forwards one chunk while it receives the next"
            report.true("at once", not idle, sentence, number)
        if not all_well(world, report):
            return
    agrees_on_ranks(report, broadcast, ring_broadcast, BROADCASTS, on_a_rank, SIZES)


# Reference ------------------------------------------------------------------------------------------------------------


class Watched(RingCommunicator):
    """Communicator that records its sends and counts its receives."""

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.sends: list[Send] = []
        self.receives = 0

    def _send(self, x: np.ndarray, to: int, number: int) -> "Send":
        self.sends.append(Send(self, self.channel._send(x, to, number), x, to))
        return self.sends[-1]

    def _receive(self, x: np.ndarray, source: int, number: int) -> None:
        self.receives += 1
        self.channel._receive(x, source, number)


class Send:
    """Handle of a message. after: how many receives this rank had started when it sent it; received: when it waited."""

    def __init__(self, comm: Watched, handle: Any, x: np.ndarray, to: int) -> None:
        self.comm, self.handle, self.x, self.before, self.to = comm, handle, x, x.copy(), to
        self.number, self.after, self.received = len(comm.sends) + 1, comm.receives, 0
        self.waited = self.early = self.changed = False

    def wait(self) -> None:
        self.over()
        self.handle.wait()

    def done(self) -> bool:
        if done := self.handle.done():
            self.over()
        return bool(done)

    def over(self) -> None:
        self.waited = True
        self.received = self.comm.receives
        self.early = self.received < self.number  # this step's receive has not started
        self.changed = not np.array_equal(self.x, self.before)


class Trial:
    """One call of the student's function, and claims about it."""

    def __init__(self, group: Communicator, told: str, report: Report, size: int) -> None:
        """size: the bytes that this rank has to send."""
        self.comm, self.ledger, self.told, self.report, self.size = Watched(group), Ledger(), told, report, size

    def run(self, call: Callable[[Communicator], Any]) -> Any:
        """Call it; claim that the function itself sends."""
        with self.ledger.open(), told_of(self.told):
            result = call(self.comm)
        self.unwaited = [send for send in self.comm.sends if not send.waited]
        for send in self.unwaited:
            send.handle.wait()
        past = "was a collective called, or something other than `comm`, such as mpi4py itself?"
        sent = not self.size or len(self.comm.sends) > 0
        self.report.true("by hand", sent, f"{self.told}: rank {self.report.rank} sent nothing by comm.send; {past}")
        return result

    def values(self, name: str, got: Any, true: np.ndarray, verb: str) -> None:
        """Claim that the array has these values and this dtype."""
        right = isinstance(got, np.ndarray) and got.dtype == true.dtype and np.array_equal(got, true)
        shown = plain(got)
        unfilled = " (negative: not filled)" if not right and "-" in shown else ""
        sentence = f"{self.told}: rank {self.report.rank} {verb} {shown}{unfilled}; right is {plain(true)}"
        self.report.true(name, right, sentence, shown)

    def shard_of_sum(self, x: np.ndarray, before: np.ndarray, true: np.ndarray) -> None:
        """Claim that this rank's shard of x holds the sum; if not, look for it in another shard."""
        n, ranks, rank = len(x), self.comm.size, self.comm.rank
        shards = [shard_of(n, ranks, c) for c in range(ranks)]
        whole = [c for c, cut in enumerate(shards) if np.array_equal(x[cut], true[cut])]
        own, right = plain(x[shards[rank]]), plain(true[shards[rank]])
        sentence = f"{self.told}: rank {rank} has {own} in its shard of x; right is {right}"
        elsewhere = f" (the sum is complete in shard {whole[0]} of its x)" if whole else ""
        if np.array_equal(x, before):
            elsewhere = " (its x is unchanged)"
        self.report.true("in place", rank in whole, sentence + elsewhere, plain(x[shards[rank]]) + elsewhere)

    def view(self, returned: Any, x: np.ndarray) -> None:
        """Claim that what is returned is a part of x, not a copy of it."""
        part = isinstance(returned, np.ndarray) and (not returned.size or np.shares_memory(returned, x))
        sentence = f"{self.told}: rank {self.report.rank} returns a copy of its shard; return a view of x"
        self.report.true("view", part, f"{sentence}, such as x[shard]")

    def price(self, messages: int | None) -> None:
        """Claim the bytes sent, and the messages if every shard has an element."""
        who = f"{self.told}: rank {{rank}} sends"
        self.report.equal("bytes", self.ledger.bytes.total(), self.size, f"{who} {{got}} bytes; right is {{expected}}")
        if messages is not None:
            count = self.ledger.messages.total()
            sentence = f"{who} {{got}} {'message' if count == 1 else 'messages'}; right is {{expected}}"
            self.report.equal("messages", count, messages, sentence)

    def manners(self, ring: bool) -> None:
        """Claim that sends go to the next rank only, are waited for after the receive, and are unchanged until then."""
        sends, who = self.comm.sends, f"{self.told}: rank {self.report.rank}"
        peers = sorted({send.to for send in sends})
        following = (self.comm.rank + 1) % self.comm.size
        sentence = (
            f"{who} sends to {', '.join(f'rank {to}' for to in peers)}; on the ring it sends to rank {following} only"
        )
        self.report.true("ring", set(peers) <= {following}, sentence, str(peers))
        missing = len(self.unwaited)
        sentence = f"{who} does not wait for {missing} of its {len(sends)} sends: MPI may still read those arrays"
        self.report.true("waited", not missing, sentence, missing)
        changed = sum(send.changed for send in sends)
        sentence = f"{who} changes {changed} of the arrays that it sends before it has waited for the send"
        self.report.true("untouched", not changed, sentence, changed)
        early = sum(send.early for send in sends) if ring and self.comm.size > 1 else 0
        everybody = min(self.comm.gather_objects(early))
        sentence = f"{self.told}: all ranks wait for a send before they receive; with large arrays, they wait forever"
        self.report.true("order", not everybody, sentence, everybody)


@contextmanager
def told_of(case: str) -> Iterator[None]:
    """Prefix a passing exception with the case in which it was raised; keep its type."""
    try:
        yield
    except Exception as error:
        error.args = (f"{case}: {error}",)
        raise


def case(n: int, ranks: int) -> str:
    """Return text such as "6 numbers, 3 ranks"."""
    return f"{n} numbers, {ranks} {'rank' if ranks == 1 else 'ranks'}"


def digits(n: int, dtype: str, rank: int, add: Callable = np.add) -> np.ndarray:
    """Return k + 1 in this rank's decimal digit, so that a sum shows its ranks: 330 is k = 2 of ranks 1 and 2.

    For a maximum the largest value alternates between ranks.
    """
    place = np.full(n, rank) if add is np.add else (rank + np.arange(n)) % 3
    return (10**place * np.arange(1, n + 1)).astype(dtype)


def inside(world: Communicator, ring: RingCommunicator, report: Report) -> None:
    """Check the library's all-reduce with this function in it: the sum and the maximum of a matrix."""
    for op, add in (("sum", np.add), ("max", np.maximum)):
        x = digits(8, "float64", world.rank, add).reshape(2, 4)
        with Ledger().open() as ledger, told_of(f"all_reduce(x, op={op!r}) with your function"):
            ring.all_reduce(x, TAG, op)
        true = reduce(add, [digits(8, "float64", r, add) for r in range(world.size)])
        sentence = f"all_reduce(x, op={op!r}) with your function gives {plain(x)}; right is {plain(true)}"
        report.true("all-reduce", np.array_equal(x.reshape(-1), true), sentence, plain(x))
        total = sum(world.gather_objects(ledger.bytes.total()))
        report.equal(
            "all bytes", total, 2 * (world.size - 1) * x.nbytes, "all_reduce sends {got} bytes, not {expected}"
        )


def plain(x: Any) -> str:
    """Return text such as "[11 22]", or the name of the type if it is not an array."""
    return f"[{' '.join(f'{v:g}' for v in x.reshape(-1))}]" if isinstance(x, np.ndarray) else type(x).__name__


def all_well(world: Communicator, report: Report) -> bool:
    """Return whether every claim of every rank has held so far."""
    return all(world.gather_objects(all(claim.ok for claim in report.claims)))
