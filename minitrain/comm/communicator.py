"""What a strategy sees of the other ranks: collectives, point to point, groups.

Every array operation works in place on a contiguous array, so that nothing is allocated behind the reader's back, and
names a `tag`, (axis, purpose), such as ("dp", "gradients"). With x_r the array of rank r and N ranks,

    all_reduce        every rank ends with  sum_r x_r
    reduce_scatter    rank r ends with its share of  sum_r x_r          (the rest of its array is then undefined)
    all_gather        every rank ends with the shares of all            (all_reduce = reduce_scatter, all_gather)
    broadcast         every rank ends with the root's array

A rank's share of n elements is `shares.share(n, N, rank)`, uneven when N does not divide n; of an array of several
axes, a share is a run of the first. `cuts`, the same on all ranks, gives other shares, such as whole parameters: they
say what each rank has, and in a ring also in which order the numbers of an all-reduce are added up. Half precision is
summed in float32 and rounded once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from .. import debug
from ..backend import Array, is_float, wide, xp
from ..observe import ledger
from ..shares import Cuts, shares
from .agreement import agree, agree_on_members, agree_on_message, call_of
from .positions import Moves

Tag = tuple[str, str]  # (axis of the mesh, purpose)
NUMBERS = "biufcV"  # kinds of dtype; V: bfloat16


class Communicator(ABC):
    """A group of ranks, numbered from 0. Subclasses move the bytes: mpi.py, threads.py."""

    threads_allowed = True  # whether two threads of a rank may communicate at the same time
    numbers = 2**28  # a message's number is below

    def __init__(self, rank: int, size: int, moves: Moves) -> None:
        """moves: this rank's, which all its communicators share."""
        self.rank, self.size, self.moves = rank, size, moves
        # call -> for each rank, the places where it made the call while others stood elsewhere
        self.apart: dict[str, list[set[tuple[str, ...]]]] = {}

    def __reduce_ex__(self, protocol: object) -> str | tuple[Any, ...]:
        """Raise TypeError: it stands for running ranks."""
        raise TypeError(
            "a communicator cannot be copied, nor can a model that ranks divide.\n"
            "Gather the model, minitrain.train.checkpoint.gather, and restore its values into a new one"
        )

    # Collectives ------------------------------------------------------------------------------------------------------

    def all_reduce(self, x: Array, tag: Tag, op: str = "sum", cuts: Cuts | None = None) -> None:
        """x becomes the sum over ranks (or the maximum: op="max"), which is NaN where any rank has NaN.

        cuts: shares of x, flat.
        """
        self._check(x)
        self._check_cuts(x.size, cuts)
        if op not in ("sum", "max"):
            raise ValueError(f"all_reduce: op is {op!r}; allowed: 'sum', 'max'")
        if op == "sum":
            self._check_sum(x)
        self._begin("all_reduce", x, tag, op=op)
        if self.size == 1 or x.size == 0:
            return
        widened = self._widen(x)
        flat = widened.reshape(-1)
        own = lambda: self._share_bytes(flat, 0, cuts) + self._share_bytes(flat, 1, cuts)
        self._charge(tag, lambda: 2 * widened.nbytes - own())
        self._all_reduce(widened, op, tag, cuts)
        if widened is not x:
            x[...] = widened

    def reduce_scatter(self, x: Array, tag: Tag, cuts: Cuts | None = None) -> Array:
        """Returns this rank's share of x, a view, in which the sum over ranks now stands."""
        self._check_shares(x, cuts)
        self._check_sum(x)
        self._begin("reduce_scatter", x, tag)
        mine = x[self._cuts(x, cuts)[self.rank]]
        if self.size > 1 and x.size:
            widened = self._widen(x)
            self._charge(tag, lambda: widened.nbytes - self._share_bytes(widened, 0, cuts))
            mine[...] = self._reduce_scatter(widened, tag, cuts)
        return mine

    def all_gather(self, x: Array, tag: Tag, cuts: Cuts | None = None) -> None:
        """Fills x from the shares of all ranks; this rank's share must stand in it."""
        self._check_shares(x, cuts)
        self._begin("all_gather", x, tag)
        if self.size > 1 and x.size:
            self._charge(tag, lambda: x.nbytes - self._share_bytes(x, 1, cuts))
            self._all_gather(x, tag, cuts)

    def broadcast(self, x: Array, root: int, tag: Tag) -> None:
        """x becomes the root's x."""
        self._check(x)
        self._check_peer(root)
        self._begin("broadcast", x, tag, root=root)
        if self.size > 1 and x.size:
            last = (self.rank - root) % self.size == self.size - 1
            self._charge(tag, lambda: 0 if last else x.nbytes)
            self._broadcast(x, root, tag)

    def barrier(self) -> None:
        """Returns when every rank of the group has called it."""
        self._begin("barrier")
        self._barrier()

    # Point to point ---------------------------------------------------------------------------------------------------

    def send(self, x: Array, to: int, tag: Tag, number: int = 0) -> Any:
        """Starts sending x and returns a handle; x must not change before `handle.wait()` has returned, or
        `handle.done()` said so.

        number tells messages between the same two ranks apart: the receiver asks for one by its number.
        """
        self._check(x)
        self._check_peer(to, number)
        self.moves.begin()
        if debug.on:
            self._tell((self.moves.rank, call_of(self, "send", x, tag, {"to": to}), x.nbytes), to, number)
        ledger.sent(tag, x.nbytes)
        return self._send(x, to, number)

    def receive(self, x: Array, source: int, tag: Tag, number: int = 0, patient: bool = False) -> None:
        """Fills x with the message of that number from `source`; waits for it. patient: leaves the core to others."""
        self._check(x)
        self._check_peer(source, number)
        self.moves.begin()
        if patient:
            self._await(source, number)
        if debug.on:
            mine = call_of(self, "receive", x, tag, {"source": source})
            agree_on_message(self, source, number, mine, x.nbytes)
        self._receive(x, source, number)

    # Small Python objects, for set-up and reports, never inside a training step ---------------------------------------

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on every rank."""
        self._begin("gather_objects")
        return self._gather_objects(value)

    # Groups -----------------------------------------------------------------------------------------------------------

    def subgroup(self, ranks: Sequence[int]) -> "Communicator":
        """A communicator of these ranks, in this order. To be called by its members only, by all of them."""
        self._check_members(ranks)
        self.moves.begin()
        if debug.on:
            members = list(ranks)
            agree_on_members(self, members, call_of(self, "subgroup", None, None, {"ranks": members}))
        return self._subgroup(ranks)

    def duplicate(self) -> "Communicator":
        """The same ranks with a message space of their own, for another thread. Called by all ranks."""
        self._begin("duplicate")
        return self._duplicate()

    def _begin(self, operation: str, x: Array | None = None, tag: Tag | None = None, **how: Any) -> None:
        """Every collective begins here, before it communicates."""
        self.moves.begin()
        if debug.on and self.size > 1:
            agree(self, call_of(self, operation, x, tag, how))

    # What a subclass implements: contiguous arrays, more than one rank, at least one element --------------------------

    @abstractmethod
    def _barrier(self) -> None: ...

    @abstractmethod
    def _gather_objects(self, value: Any) -> list[Any]: ...

    @abstractmethod
    def _subgroup(self, ranks: Sequence[int]) -> "Communicator": ...

    @abstractmethod
    def _duplicate(self) -> "Communicator": ...

    @abstractmethod
    def _tell(self, value: Any, to: int, number: int) -> None:
        """Debug mode: sends a small object, apart from all messages."""

    @abstractmethod
    def _hear(self, source: int, number: int) -> Any:
        """Debug mode: the object of that number that was told to this rank; waits for it."""

    @abstractmethod
    def _all_reduce(self, x: Array, op: str, tag: Tag, cuts: Cuts | None) -> None: ...

    @abstractmethod
    def _reduce_scatter(self, x: Array, tag: Tag, cuts: Cuts | None) -> Array: ...

    @abstractmethod
    def _all_gather(self, x: Array, tag: Tag, cuts: Cuts | None) -> None: ...

    @abstractmethod
    def _broadcast(self, x: Array, root: int, tag: Tag) -> None: ...

    @abstractmethod
    def _send(self, x: Array, to: int, number: int) -> Any: ...

    def _await(self, source: int, number: int) -> None:
        """Returns when such a message has come, or at once where waiting costs nothing."""
        return

    @abstractmethod
    def _receive(self, x: Array, source: int, number: int) -> None: ...

    def _widen(self, x: Array) -> Array:
        """x itself, or a copy in the dtype that sums are made in."""
        widened = x.astype(wide(x.dtype), copy=False) if is_float(x.dtype) else x
        ledger.hold(widened, "buffers", "all-reduce")
        return widened

    def _cuts(self, x: Array, cuts: Cuts | None) -> Cuts:
        """The shares of all ranks."""
        return shares(len(x), self.size) if cuts is None else cuts

    def _share_bytes(self, x: Array, ahead: int, cuts: Cuts | None) -> int:
        """Bytes of the share of the rank that is `ahead` ranks further on."""
        cut = self._cuts(x, cuts)[(self.rank + ahead) % self.size]
        return (cut.stop - cut.start) * (x.nbytes // len(x))

    def _charge(self, tag: Tag, size: Callable[[], int]) -> None:
        """Reports a collective whose messages cannot be seen, at the price of a ring's.

        In a reduce-scatter a ring sends all shares but the rank's own from here, in an all-gather all but the next's.
        The size is only computed when somebody counts: a small all-reduce takes little longer than that.
        """
        if ledger.current() is not None:
            ledger.charge(tag, size())

    def _check(self, x: Array) -> None:
        if not isinstance(x, (np.ndarray, xp.ndarray)) or x.dtype.kind not in NUMBERS:
            what = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
            raise TypeError(f"ranks exchange arrays of numbers; this is {what}")
        if not x.flags.c_contiguous:
            raise ValueError(f"collectives need a contiguous array; this one has shape {x.shape}, strides {x.strides}")

    def _check_shares(self, x: Array, cuts: Cuts | None) -> None:
        self._check(x)
        if x.ndim == 0:
            raise ValueError("shares are runs of the first axis; this array has none: reshape it to (1,)")
        self._check_cuts(len(x), cuts)

    def _check_cuts(self, n: int, cuts: Cuts | None) -> None:
        """Raise ValueError unless these are runs for all ranks that cover n elements in order."""
        if cuts is None:
            return
        borders = [0, *(cut.stop for cut in cuts)]
        in_order = borders == sorted(borders) and [cut.start for cut in cuts] == borders[:-1]
        if not in_order or len(cuts) != self.size or borders[-1] != n:
            raise ValueError(f"{list(cuts)} do not cover {n} elements in order, one cut for each of {self.size} ranks")

    def _check_message(self, x: Array, size: int) -> None:
        if size != x.nbytes:
            raise ValueError(f"a message of {size} bytes arrives; {x.shape} of {x.dtype} takes {x.nbytes} bytes")

    def _check_sum(self, x: Array) -> None:
        """Raise ValueError for integers that a sum soon leaves: it would begin again at the other end."""
        if x.dtype.kind in "biu" and x.dtype.itemsize < 4:
            raise ValueError(f"sums over ranks of {x.dtype} would not fit into it; convert x to int64 or float32 first")

    def _check_peer(self, rank: int, number: int = 0) -> None:
        if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} does not exist: the group has ranks 0 to {self.size - 1}")
        if isinstance(number, bool) or not isinstance(number, Integral) or not 0 <= number < self.numbers:
            raise ValueError(
                f"a message's number is a whole number of at least 0 and below {self.numbers}, not {number!r}"
            )

    def _check_members(self, ranks: Sequence[int]) -> None:
        """Raises ValueError unless these are ranks of the group, each once, with this one among them.

        A group with a rank that never comes, or that is there twice, would wait for ever.
        """
        members = list(ranks) if isinstance(ranks, Sequence) else []
        for rank in members:
            self._check_peer(rank)
        if not members or len(set(members)) < len(members):
            raise ValueError(f"a subgroup needs a sequence of ranks, each once, not {ranks!r}")
        if self.rank not in members:
            raise ValueError(f"rank {self.rank} asks for a subgroup of the ranks {members} without being in it")
