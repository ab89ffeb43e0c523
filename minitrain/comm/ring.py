"""Ring collectives, built from send and receive: every rank communicates only with its two neighbors.

Rank r sends to r + 1 and receives from r - 1 (mod N). The array is cut into N chunks; chunk c is rank c's shard.

    reduce-scatter, N = 3        rank 0          rank 1          rank 2          (a0: rank 0's chunk a)
    start                        a0 b0 c0        a1 b1 c1        a2 b2 c2
    step 0: r sends r - 1        c0 ->           a1 ->           b2 ->
                                 a0 b02 c0       a1 b1 c01       a12 b2 c2       (b02 = b0 + b2)
    step 1: r sends r - 2        b02 ->          c01 ->          a12 ->
                                 a012 . .        . b012 .        . . c012        rank r has the sum of its chunk

An all-gather passes the finished chunks around in the same way, without adding. An all-reduce is a reduce-scatter
followed by an all-gather.

Cost for M bytes on N ranks: in each phase every chunk makes N - 1 hops, so all ranks together send (N-1) M bytes,
and 2 (N-1) M for an all-reduce, even if N does not divide the length. Each rank sends 2 (N-1) messages, less
than 2 M bytes in total, for any N.
Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..backend import Array, xp
from ..observe import ledger
from ..sharding import Shards, even_shards, shard_of
from .communicator import Communicator, Tag

Add = Callable[..., Array]  # (a, b, out=a): numpy.add, numpy.maximum


def ring_reduce_scatter(
    comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None
) -> Array:
    """Sum the flat array x over ranks; return this rank's shard of the sum, a view of x. The rest of x is undefined.

    In each of N - 1 steps, rank r sends one chunk to r + 1 and adds the one received from r - 1: add(a, b, out=a).
    shards: each rank's slice of x, the same on all ranks; by default `even_shards`.
    """
    n, r = comm.size, comm.rank
    chunks = [x[shard] for shard in shards or even_shards(len(x), n)]
    arriving = xp.empty_like(max(chunks, key=len))
    ledger.hold(arriving, "buffers", "reduce-scatter")
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
        sent.wait()
    return chunks[r]


def ring_all_gather(comm: Communicator, x: Array, tag: Tag, shards: Shards | None = None) -> None:
    """Fill the flat array x. Rank r starts with shard r and forwards to r + 1 what it last received from r - 1.

    shards: each rank's slice of x, the same on all ranks; by default `even_shards`.
    """
    n, r = comm.size, comm.rank
    chunks = [x[shard] for shard in shards or even_shards(len(x), n)]
    for step in range(n - 1):
        out, into = chunks[(r - step) % n], chunks[(r - 1 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(into, (r - 1) % n, tag, step)
        sent.wait()


def ring_all_reduce(comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None) -> None:
    """Replace the flat array x by the sum over ranks, bitwise equal on all ranks."""
    ring_reduce_scatter(comm, x, tag, add, shards)
    ring_all_gather(comm, x, tag, shards)


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    """Replace the flat array x by the root's, pipelined: a rank forwards one chunk while it receives the next.

    Sends (N-1) M bytes in total; the last rank is done after N + (N-2) chunk times instead of (N-1) N.
    """
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n):
        chunk = x[shard_of(len(x), n, step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
        if place < n - 1:
            sent.append(comm.send(chunk, (comm.rank + 1) % n, tag, step))
    for handle in sent:
        handle.wait()


class RingCommunicator(Communicator):
    """Wrap a communicator and replace its collectives by the ring versions above. All ranks must construct it together.

    Bytes are counted as they are sent. reduce_scatter, all_gather: replacements for the two ring functions.
    """

    def __init__(
        self,
        inner: Communicator,
        reduce_scatter: Callable[..., Array] = ring_reduce_scatter,
        all_gather: Callable[..., None] = ring_all_gather,
    ) -> None:
        super().__init__(inner.rank, inner.size, inner.moves, inner.members)
        self.inner, self.numbers = inner, inner.numbers
        self.threads_allowed = inner.threads_allowed
        self.channel = inner.duplicate()  # keeps the ring's messages apart from the user's
        self.functions = (reduce_scatter, all_gather)

    def _all_reduce(self, x: Array, op: str, tag: Tag, shards: Shards | None) -> None:
        reduce_scatter, all_gather = self.functions
        flat, given = x.reshape(-1), _given(shards)
        reduce_scatter(self.channel, flat, tag, xp.add if op == "sum" else xp.maximum, **given)
        all_gather(self.channel, flat, tag, **given)

    def _reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None) -> Array:
        return self.functions[0](self.channel, x, tag, **_given(shards))

    def _all_gather(self, x: Array, tag: Tag, shards: Shards | None) -> None:
        self.functions[1](self.channel, x, tag, **_given(shards))

    def _broadcast(self, x: Array, root: int, tag: Tag) -> None:
        ring_broadcast(self.channel, x.reshape(-1), root, tag)

    def _barrier(self) -> None:
        self.inner._barrier()

    def _send(self, x: Array, to: int, number: int) -> Any:
        return self.inner._send(x, to, number)

    def _await(self, source: int, number: int) -> None:
        self.inner._await(source, number)

    def _receive(self, x: Array, source: int, number: int) -> None:
        self.inner._receive(x, source, number)

    def _charge(self, tag: Tag, size: Callable[[], int]) -> None:
        """Do nothing: every message is counted when it is sent."""

    def _gather_objects(self, value: Any) -> list[Any]:
        return self.inner._gather_objects(value)

    def _tell(self, value: Any, to: int, number: int) -> None:
        self.inner._tell(value, to, number)

    def _hear(self, source: int, number: int) -> Any:
        return self.inner._hear(source, number)

    def _subgroup(self, ranks: Sequence[int]) -> "RingCommunicator":
        return RingCommunicator(self.inner._subgroup(ranks), *self.functions)

    def _duplicate(self) -> "RingCommunicator":
        return RingCommunicator(self.inner._duplicate(), *self.functions)

    def _free(self) -> None:
        """Release the channel, and the communicator that was made for this ring."""
        self.channel.free()
        self.inner.free()


def _given(shards: Shards | None) -> dict[str, Shards]:
    """Return shards as keyword arguments, none for None, so that a replacement need not support them."""
    return {} if shards is None else {"shards": shards}
