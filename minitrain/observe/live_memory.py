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
        self.reported: list[tuple[weakref.ref, str]] = []  # since the last `measure`; one array may be in it twice
        self.known: dict[int, tuple[weakref.ref, str, int]] = {}  # id of the array -> reference, kind, bytes

    def hold(self, array: Any, kind: str, phase: str = "", node: Any = None) -> None:
        """Remember the array. Raise UserError for a kind that is not one of KINDS. phase, node: not used."""
        if kind not in KINDS:
            check_choice("kind", kind, KINDS)
        if (owner := owner_of(array)) is not None:
            self.reported.append((weakref.ref(owner), kind))  # also from a communication thread

    def measure(self) -> dict[str, int]:
        """Return kind -> bytes alive now."""
        new = self.reported[:]
        del self.reported[: len(new)]  # another thread may have added more
        for reference, kind in new:
            owner = reference()
            if owner is not None:
                same, before, _ = self.known.get(id(owner), (None, kind, 0))
                if same is not reference or KINDS.index(kind) > KINDS.index(before):  # not, if an id was used before
                    self.known[id(owner)] = reference, kind, owner.nbytes
        live, dead = dict.fromkeys(KINDS, 0), []
        for key, (reference, kind, nbytes) in self.known.items():
            if reference() is None:
                dead.append(key)
            else:
                live[kind] += nbytes
        for key in dead:
            del self.known[key]
        return live
