"""The ledger of one rank: counts bytes and messages sent, FLOPs, and live bytes with their peak.

    ledger = Ledger()
    with ledger.open():
        train_step(...)
    ledger.bytes["dp", "gradients"]     sent by this rank under this tag
    ledger.peak, ledger.peak_parts      most bytes alive at once, in total and by kind

Without an open ledger, nothing is counted. The open ledger is a context variable: ranks that are threads each have
their own, and a rank's communication thread shares its rank's.

Live bytes are tracked per array: code that allocates an array that matters reports it once (`hold`), and a weak
reference detects when it is freed. A view counts as the array that owns its memory, once.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..errors import check_choice
from . import virtual_time

# If an array is reported more than once, the kind further right takes precedence.
KINDS = ("buffers", "activations", "optimizer", "gradients", "parameters")

_current: ContextVar["Ledger | None"] = ContextVar("ledger", default=None)


class Ledger:
    """Counters of one rank, starting at 0.

    bytes, messages: tag -> amount sent by this rank. charged: tag -> bytes that this rank would have sent in a ring,
    for collectives inside MPI, whose messages are not visible. flops: multiplications and additions in matrix products.
    live: kind -> bytes alive; peak, peak_parts, peak_moment: their largest total, by kind, and what ran then.
    history: if history=True, a copy of `live` after each change.
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
        self._lock = threading.RLock()  # an array may be freed in any thread, even inside `hold`

    @contextmanager
    def open(self) -> Iterator["Ledger"]:
        """Count in this ledger what this thread does inside the context."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def hold(self, array: Any, kind: str, phase: str = "", node: Any = None) -> None:
        """Track the memory of this array until it is freed. kind, phase, node: see the function `hold`.

        Raise UserError for another kind.
        """
        check_choice("kind", kind, KINDS)
        owner = owner_of(array)
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
        """Add `size` to counter[tag]. Thread-safe: the communication thread may call it concurrently."""
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
    """Return the open ledger, or None."""
    return _current.get()


def hold(array: Any, kind: str, phase: str = "", node: Any = None) -> None:
    """Report an array to the open ledger. kind: one of KINDS; phase, node: what is running, and its operation.

    Raise UserError for another kind.
    """
    ledger = _current.get()
    if ledger is not None:
        ledger.hold(array, kind, phase, node)


def sent(tag: tuple[str, str], size: int) -> None:
    """Count one message of `size` bytes sent by this rank."""
    ledger = _current.get()
    if ledger is not None:
        ledger.count(ledger.bytes, tag, size)
        ledger.count(ledger.messages, tag, 1)


def charge(tag: tuple[str, str], size: int) -> None:
    """Count a collective inside MPI, for which this rank would have sent `size` bytes in a ring."""
    ledger = _current.get()
    if ledger is not None:
        ledger.count(ledger.charged, tag, size)


def flops(count: int) -> None:
    """Count multiplications and additions in the open ledger, and let the open clock advance."""
    ledger, clock = _current.get(), virtual_time.current()
    if ledger is not None:
        ledger.flops += count
    if clock is not None:
        clock.compute(count)


def owner_of(array: Any) -> Any:
    """Return the array that owns the memory, or None if this is not an array with at least one axis."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array if hasattr(array, "nbytes") and hasattr(array, "base") and getattr(array, "shape", None) else None
