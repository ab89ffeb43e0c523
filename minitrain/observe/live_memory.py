"""Live memory at chosen moments: a ledger that does little when an array is reported, and adds up when asked.

    Ledger            learns of each array's end as well, and knows the total, and the peak, at all times
    LiveMemory        keeps weak references, and counts those that are still alive

A trace needs the second only: it takes a third of the time.
"""

import weakref
from typing import Any

from ..errors import check_choice
from .ledger import KINDS, Ledger, owner_of


class LiveMemory(Ledger):
    """A ledger whose live bytes are found by `measure`. It has neither a peak nor a history."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[tuple[weakref.ref, str]] = []  # an array may be in it several times

    def hold(self, array: Any, kind: str, phase: str = "", node: Any = None) -> None:
        """Remember the array. Raise UserError for a kind that is not one of KINDS. phase, node: not used."""
        if kind not in KINDS:
            check_choice("kind", kind, KINDS)
        if (owner := owner_of(array)) is not None:
            self.reported.append((weakref.ref(owner), kind))  # also from a communication thread

    def measure(self) -> dict[str, int]:
        """Return kind -> bytes alive now."""
        count = len(self.reported)  # another thread may add more
        known: dict[int, tuple[Any, str]] = {}
        for reference, kind in self.reported[:count]:
            owner = reference()
            if owner is not None:
                before = known.get(id(owner))
                if before is None or KINDS.index(kind) > KINDS.index(before[1]):
                    known[id(owner)] = owner, kind
        self.reported[:count] = [(weakref.ref(owner), kind) for owner, kind in known.values()]
        live = dict.fromkeys(KINDS, 0)
        for owner, kind in known.values():
            live[kind] += owner.nbytes
        return live
