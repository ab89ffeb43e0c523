"""The ledger: bytes and messages sent, FLOPs, and live bytes with their peak, for one rank.

    ledger = Ledger()
    with ledger.open():
        train_step(...)
    ledger.bytes["dp", "gradients"]     sent by this rank under this tag
    ledger.peak, ledger.peak_parts      most bytes alive at once, and of what kind they were

Without an open ledger nothing is counted and nothing slows down. The open one lives in a context variable: ranks that
are threads each have their own, and a rank's communication thread shares its rank's.

Live bytes are followed array by array: whoever makes an array that matters reports it once (`hold`), and a weak
reference tells when it is gone. Views are counted as the array that owns their memory, once.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# An array may be reported more than once; the kind further right is the better description.
KINDS = ("buffers", "activations", "optimizer", "gradients", "parameters")

_current: ContextVar["Ledger | None"] = ContextVar("ledger", default=None)


class Ledger:
    """Counters of one rank, all from 0.

    bytes, messages: tag -> what left this rank by `send`. charged: tag -> the bytes that a ring would have sent from
    this rank, for collectives inside MPI, which cannot be looked into. flops: multiplications and additions of matrix
    products. live: kind -> bytes alive; peak, peak_parts, peak_moment: the most there has been. history: with
    history=True, what was alive after each change, as copies of `live`.
    """

    def __init__(self, history: bool = False) -> None:
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.messages: Counter[tuple[str, str]] = Counter()
        self.charged: Counter[tuple[str, str]] = Counter()
        self.flops = 0
        self.live: Counter[str] = Counter()
        self.peak = 0
        self.peak_parts: dict[str, int] = {}
        self.peak_moment = ""
        self.history: list[dict[str, int]] | None = [] if history else None
        self._held: dict[int, tuple[weakref.ref, int, str]] = {}  # id of the owning array -> reference, bytes, kind
        self._lock = threading.RLock()  # an array may die in any thread, even inside `hold`

    @contextmanager
    def open(self) -> Iterator["Ledger"]:
        """What happens inside, in this thread, is counted here."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def hold(self, array: Any, kind: str, phase: str = "", node: Any = None) -> None:
        """Follows the memory of this array until it is freed."""
        owner = _owner(array)
        if owner is None or not owner.nbytes:
            return
        with self._lock:
            known = self._held.get(id(owner))
            if known is not None:
                reference, size, before = known
                if KINDS.index(kind) <= KINDS.index(before):
                    return
                self.live[before] -= size
            else:
                key = id(owner)
                reference, size = weakref.ref(owner, lambda _: self._release(key)), owner.nbytes
            self._held[id(owner)] = (reference, size, kind)
            self.live[kind] += size
            self._note()
            total = self.live.total()
            if total > self.peak:
                self.peak, self.peak_parts = total, dict(+self.live)
                self.peak_moment = phase if node is None else f"{phase} of {node.operation}"

    def count(self, counter: Counter, tag: tuple[str, str], size: int) -> None:
        """Adds to one of the counters; the communication thread may do so at the same time."""
        with self._lock:
            counter[tag] += size

    def _release(self, key: int) -> None:
        with self._lock:
            _, size, kind = self._held.pop(key)
            self.live[kind] -= size
            self._note()

    def _note(self) -> None:
        if self.history is not None:
            self.history.append(dict(self.live))


def current() -> Ledger | None:
    """The open ledger, if there is one."""
    return _current.get()


def hold(array: Any, kind: str, phase: str = "", node: Any = None) -> None:
    """Reports an array to the open ledger. kind: one of KINDS; phase: what is being done, by which operation."""
    ledger = _current.get()
    if ledger is not None:
        ledger.hold(array, kind, phase, node)


def sent(tag: tuple[str, str], size: int) -> None:
    """One message of `size` bytes leaves this rank."""
    ledger = _current.get()
    if ledger is not None:
        ledger.count(ledger.bytes, tag, size)
        ledger.count(ledger.messages, tag, 1)


def charge(tag: tuple[str, str], size: int) -> None:
    """A collective inside MPI, for which a ring would have sent `size` bytes from this rank."""
    ledger = _current.get()
    if ledger is not None:
        ledger.count(ledger.charged, tag, size)


def flops(count: int) -> None:
    """Multiplications and additions that were done."""
    ledger = _current.get()
    if ledger is not None:
        ledger.flops += count


def _owner(array: Any) -> Any:
    """The array that owns the memory; None for what is not an array."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array if hasattr(array, "nbytes") and hasattr(array, "base") and getattr(array, "shape", None) else None
