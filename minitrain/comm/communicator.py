"""The communication interface: collectives, point-to-point messages, subgroups.

Every array operation works in place on a contiguous array, so there are no hidden allocations. Each takes a `tag`,
(axis, purpose), such as ("dp", "gradients"). With N ranks, and x_r the array of rank r:

    all_reduce        every rank ends with  sum_r x_r
    reduce_scatter    rank r ends with its shard of  sum_r x_r          (the rest of its array is undefined)
    all_gather        every rank ends with the shards of all ranks      (all_reduce = reduce_scatter, all_gather)
    broadcast         every rank ends with the root's array

A rank's shard of n elements is `sharding.shard_of(n, N, rank)`; shards are uneven when N does not divide n. A shard of
a multi-dimensional array is a run of its first axis. `shards` overrides them, for example to keep parameters whole; it
must be the same on all ranks. In a ring, the shards also determine the order in which an all-reduce adds.
Half-precision arrays are summed in float32 and rounded once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any

import numpy as np

from .. import debug
from ..backend import Array, accumulation_dtype, is_float, xp
from ..observe import ledger, recorder, virtual_time
from ..sharding import Shards, even_shards
from .agreement import agree, agree_on_members, agree_on_message, call_of
from .rank_positions import Moves

Tag = tuple[str, str]  # (axis of the mesh, purpose)
NUMBERS = "biufcV"  # kinds of dtype; V: bfloat16


class Communicator(ABC):
    """A group of ranks, numbered from 0. Subclasses implement the transport: mpi.py, threads.py."""

    threads_allowed = True  # whether two threads of a rank may communicate concurrently
    numbers = 2**28  # exclusive upper bound of a message number

    def __init__(self, rank: int, size: int, moves: Moves, members: Sequence[int] | None = None) -> None:
        """moves: the communication counter of this rank, shared by all its communicators. members: the ranks of the
        group, numbered as in the world; None for the world."""
        self.rank, self.size, self.moves = rank, size, moves
        self.members = tuple(range(size)) if members is None else tuple(members)
        self.groups: dict[tuple[int, ...], Communicator] = {}  # subgroups that meshes made: later meshes share them
        # call -> for each rank, where it made the call while others made it elsewhere
        self.apart: dict[str, list[set[tuple[str, ...]]]] = {}

    def __reduce_ex__(self, protocol: object) -> str | tuple[Any, ...]:
        """Raise TypeError: a communicator is tied to running ranks."""
        raise TypeError(
            "a communicator cannot be copied, and neither can a model that is split across ranks.\n"
            "Gather the model with minitrain.train.checkpoint.gather and restore its values into a new one"
        )

    # Collectives ------------------------------------------------------------------------------------------------------

    def all_reduce(self, x: Array, tag: Tag, op: str = "sum", shards: Shards | None = None) -> None:
        """Replace x, of any shape, by the sum over ranks (op="max": the maximum). NaN on any rank gives NaN.

        shards: those of the flattened x. Raise ValueError for another op, a non-contiguous x, shards that do not
        cover x, or a sum of 8- or 16-bit integers; TypeError if x is not a numeric array.
        """
        self._check(x)
        self._check_shards(x.size, shards)
        if op not in ("sum", "max"):
            raise ValueError(f"all_reduce: op is {op!r}; allowed: 'sum', 'max'")
        if op == "sum":
            self._check_sum(x)
        self._begin("all_reduce", x, tag, op=op)
        if self.size == 1 or x.size == 0:
            return
        widened = self._widen(x)
        flat = widened.reshape(-1)
        shard_bytes = lambda: self._shard_bytes(flat, 0, shards) + self._shard_bytes(flat, 1, shards)
        self._charge(tag, lambda: 2 * widened.nbytes - shard_bytes())
        with recorder.collective("all_reduce", self, tag, widened.nbytes), self._timed(2, flat, shards):
            self._all_reduce(widened, op, tag, shards)
        if widened is not x:
            x[...] = widened

    def reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None = None) -> Array:
        """Sum x (n, ...) over ranks; return this rank's shard of the sum, a view of x. Raise as `all_reduce` does."""
        self._check_rows(x, shards)
        self._check_sum(x)
        self._begin("reduce_scatter", x, tag)
        shard = x[self._shards(x, shards)[self.rank]]
        if self.size > 1 and x.size:
            widened = self._widen(x)
            self._charge(tag, lambda: widened.nbytes - self._shard_bytes(widened, 0, shards))
            with recorder.collective("reduce_scatter", self, tag, widened.nbytes), self._timed(1, widened, shards):
                shard[...] = self._reduce_scatter(widened, tag, shards)
        return shard

    def all_gather(self, x: Array, tag: Tag, shards: Shards | None = None) -> None:
        """Fill x (n, ...) with all ranks' shards; x must already contain this rank's. Raise as `all_reduce` does."""
        self._check_rows(x, shards)
        self._begin("all_gather", x, tag)
        if self.size > 1 and x.size:
            self._charge(tag, lambda: x.nbytes - self._shard_bytes(x, 1, shards))
            with recorder.collective("all_gather", self, tag, x.nbytes), self._timed(1, x, shards):
                self._all_gather(x, tag, shards)

    def broadcast(self, x: Array, root: int, tag: Tag) -> None:
        """Replace x by the root's x. Raise ValueError if the rank `root` does not exist."""
        self._check(x)
        self._check_peer(root)
        self._begin("broadcast", x, tag, root=root)
        if self.size > 1 and x.size:
            last = (self.rank - root) % self.size == self.size - 1
            self._charge(tag, lambda: 0 if last else x.nbytes)
            with recorder.collective("broadcast", self, tag, x.nbytes):
                self._broadcast(x, root, tag)

    def barrier(self) -> None:
        """Block until every rank of the group has called it."""
        self._begin("barrier")
        with recorder.collective("barrier", self, ("", "barrier"), 0):
            self._barrier()

    # Point to point ---------------------------------------------------------------------------------------------------

    def send(self, x: Array, to: int, tag: Tag, number: int = 0) -> Any:
        """Start sending x and return a handle. Do not modify x until handle.wait() returns or handle.done() is True.

        number: distinguishes messages between the same two ranks; `receive` selects by it. Raise ValueError if rank
        `to` does not exist or the number is out of range.
        """
        self._check(x)
        self._check_peer(to, number)
        self.moves.begin()
        if debug.on:
            self._tell((self.moves.rank, call_of(self, "send", x, tag, {"to": to}), x.nbytes), to, number)
        ledger.sent(tag, x.nbytes)
        clock = virtual_time.current()
        if clock is not None and not clock.inside:
            self._tell((clock.time, self.moves.rank), to, number)
        with recorder.message("send", self, tag, x.nbytes, self.rank, to, number):
            return self._send(x, to, number)

    def receive(self, x: Array, source: int, tag: Tag, number: int = 0, patient: bool = False) -> None:
        """Receive message `number` from `source` into x, blocking. Raise ValueError if its size differs from x.

        patient: sleep instead of spinning.
        """
        self._check(x)
        self._check_peer(source, number)
        self.moves.begin()
        with recorder.message("receive", self, tag, x.nbytes, source, self.rank, number):
            if patient:
                self._await(source, number)
            if debug.on:
                call = call_of(self, "receive", x, tag, {"source": source})
                agree_on_message(self, source, number, call, x.nbytes)
            clock = virtual_time.current()
            if clock is not None and not clock.inside:
                clock.receive(self._hear(source, number), self.moves.rank, x.nbytes)
            self._receive(x, source, number)

    # Small Python objects, for setup and reports, never inside a training step ----------------------------------------

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order, on every rank."""
        self._begin("gather_objects")
        return self._gather_objects(value)

    # Groups -----------------------------------------------------------------------------------------------------------

    def subgroup(self, ranks: Sequence[int]) -> "Communicator":
        """Return a communicator of these ranks, in this order. Exactly its members must call this.

        Raise ValueError if `ranks` has duplicates, unknown ranks, or lacks this rank.
        """
        self._check_members(ranks)
        self.moves.begin()
        if debug.on:
            members = list(ranks)
            agree_on_members(self, members, call_of(self, "subgroup", None, None, {"ranks": members}))
        return self._subgroup(ranks)

    def duplicate(self) -> "Communicator":
        """Return a communicator of the same ranks with its own message space, for another thread. All ranks call it."""
        self._begin("duplicate")
        return self._duplicate()

    def free(self) -> None:
        """Release a communicator that `subgroup` or `duplicate` returned: MPICH allows 2048 per process.

        All its ranks call it, and none uses the communicator afterwards. Raise ValueError if it is MPI's world.
        """
        self._free()

    def _begin(self, operation: str, x: Array | None = None, tag: Tag | None = None, **how: Any) -> None:
        """Record the start of a collective. In debug mode, check that all ranks make the same call."""
        self.moves.begin()
        if debug.on and self.size > 1:
            agree(self, call_of(self, operation, x, tag, how))

    # Implemented by subclasses. Arrays are contiguous and not empty, and the group has more than one rank -------------

    @abstractmethod
    def _barrier(self) -> None: ...

    @abstractmethod
    def _gather_objects(self, value: Any) -> list[Any]: ...

    @abstractmethod
    def _subgroup(self, ranks: Sequence[int]) -> "Communicator": ...

    @abstractmethod
    def _duplicate(self) -> "Communicator": ...

    @abstractmethod
    def _free(self) -> None: ...

    @abstractmethod
    def _tell(self, value: Any, to: int, number: int) -> None:
        """Debug mode and virtual time: send a small object, separately from all messages."""

    @abstractmethod
    def _hear(self, source: int, number: int) -> Any:
        """Return the object `number` that `source` sent to this rank by `_tell`, blocking."""

    @abstractmethod
    def _all_reduce(self, x: Array, op: str, tag: Tag, shards: Shards | None) -> None: ...

    @abstractmethod
    def _reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None) -> Array: ...

    @abstractmethod
    def _all_gather(self, x: Array, tag: Tag, shards: Shards | None) -> None: ...

    @abstractmethod
    def _broadcast(self, x: Array, root: int, tag: Tag) -> None: ...

    @abstractmethod
    def _send(self, x: Array, to: int, number: int) -> Any: ...

    def _await(self, source: int, number: int) -> None:
        """Block until the message has arrived; return at once where blocking in `_receive` does not spin."""
        return

    @abstractmethod
    def _receive(self, x: Array, source: int, number: int) -> None: ...

    def _widen(self, x: Array) -> Array:
        """Return x, or a copy of x in the accumulation dtype."""
        widened = x.astype(accumulation_dtype(x.dtype), copy=False) if is_float(x.dtype) else x
        ledger.hold(widened, "buffers", "all-reduce")
        return widened

    def _shards(self, x: Array, shards: Shards | None) -> Shards:
        """Return the shards of all ranks."""
        return even_shards(len(x), self.size) if shards is None else shards

    def _shard_bytes(self, x: Array, ahead: int, shards: Shards | None) -> int:
        """Return the bytes in the shard of rank (self.rank + ahead) mod N."""
        shard = self._shards(x, shards)[(self.rank + ahead) % self.size]
        return (shard.stop - shard.start) * (x.nbytes // len(x))

    def _charge(self, tag: Tag, size: Callable[[], int]) -> None:
        """Charge the ledger for a collective whose messages are not visible, as if it were a ring collective.

        A rank of a ring sends all shards but its own in a reduce-scatter, and all but the next rank's in an all-gather.
        The size is computed only if a ledger is open, since it takes almost as long as a small all-reduce.
        """
        if ledger.current() is not None:
            ledger.charge(tag, size())

    def _timed(self, passes: int, x: Array, shards: Shards | None) -> AbstractContextManager[None]:
        """Return a context that times a collective of one or two passes around the ring, if a clock is open."""
        if virtual_time.current() is None:
            return nullcontext()
        largest = max(self._shard_bytes(x, ahead, shards) for ahead in range(self.size))
        hops = passes * (self.size - 1)
        return virtual_time.in_collective(self._gather_objects, self.moves.rank, hops, largest)

    def _check(self, x: Array) -> None:
        if not isinstance(x, (np.ndarray, xp.ndarray)) or x.dtype.kind not in NUMBERS:
            what = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
            raise TypeError(f"ranks exchange arrays of numbers; this is {what}")
        if not x.flags.c_contiguous:
            raise ValueError(f"collectives need a contiguous array; this one has shape {x.shape}, strides {x.strides}")

    def _check_rows(self, x: Array, shards: Shards | None) -> None:
        self._check(x)
        if x.ndim == 0:
            raise ValueError("shards are runs of the first axis, but this array has no axes: reshape it to (1,)")
        self._check_shards(len(x), shards)

    def _check_shards(self, n: int, shards: Shards | None) -> None:
        """Raise ValueError unless there is one cut per rank and together they cover n elements in order."""
        if shards is None:
            return
        borders = [0, *(shard.stop for shard in shards)]
        in_order = borders == sorted(borders) and [shard.start for shard in shards] == borders[:-1]
        if not in_order or len(shards) != self.size or borders[-1] != n:
            raise ValueError(
                f"{list(shards)} do not cover {n} elements in order, one cut for each of {self.size} ranks"
            )

    def _check_message(self, x: Array, size: int) -> None:
        if size != x.nbytes:
            raise ValueError(f"a message of {size} bytes arrived; {x.shape} of {x.dtype} takes {x.nbytes} bytes")

    def _check_sum(self, x: Array) -> None:
        """Raise ValueError for 8- and 16-bit integers: a sum over ranks would easily overflow and wrap around."""
        if x.dtype.kind in "biu" and x.dtype.itemsize < 4:
            raise ValueError(f"sums over ranks of {x.dtype} may overflow; convert x to int64 or float32 first")

    def _check_peer(self, rank: int, number: int = 0) -> None:
        if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} does not exist: the group has ranks 0 to {self.size - 1}")
        if isinstance(number, bool) or not isinstance(number, Integral) or not 0 <= number < self.numbers:
            raise ValueError(
                f"a message number must be an integer of at least 0 and below {self.numbers}, not {number!r}"
            )

    def _check_members(self, ranks: Sequence[int]) -> None:
        """Raise ValueError unless these are distinct ranks of the group and include this one.

        A group with an absent or a duplicate rank would deadlock.
        """
        members = list(ranks) if isinstance(ranks, Sequence) else []
        for rank in members:
            self._check_peer(rank)
        if not members or len(set(members)) < len(members):
            raise ValueError(f"a subgroup needs a sequence of distinct ranks, not {ranks!r}")
        if self.rank not in members:
            raise ValueError(f"rank {self.rank} requests a subgroup of ranks {members}, which does not include it")
