"""Debug mode, MINITRAIN_DEBUG=1: checks that are too slow to run by default.

comm/agreement.py checks that the ranks of a group make the same calls. This file checks that the arrays a backward
needs are still those of the forward. An operation saves them or reads them through their parameter; modifying one in
between (`p.data *= 2`, `y.data *= 10`) would silently make the gradient wrong. So the tape keeps a checksum of each
array and compares it before the operation's backward.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .backend import checksum
from .errors import UserError

if TYPE_CHECKING:
    from .autograd import Node
    from .tensor import Tensor

Sums = list[tuple[Any, int]]  # (an array or the parameter that holds it, its checksum)


def _choose() -> bool:
    value = os.environ.get("MINITRAIN_DEBUG", "0")
    if value not in ("0", "1", ""):
        raise UserError(f"MINITRAIN_DEBUG is {value!r}; allowed: '0', '1'")
    return value == "1"


on = _choose()


@contextmanager
def enabled() -> Iterator[None]:
    """Enable debug mode inside this context, for all threads of this process."""
    global on
    before, on = on, True
    try:
        yield
    finally:
        on = before


def checksums(saved: Sequence[Any], parameters: Sequence["Tensor"]) -> Sums:
    """Return the checksums of what an operation saved (arrays or tensors) and of the parameters its backward reads."""
    return [(kept, _checksum(kept)) for kept in (*saved, *parameters) if kept is not None]


def check_unchanged(node: "Node") -> None:
    """Raise RuntimeError if an array that the node's backward needs was changed after its forward."""
    for kept, before in node.sums:
        if _checksum(kept) != before:
            where = getattr(kept, "placement", None)
            name = f"an array of {kept.dtype}, shape {kept.shape}," if where is None else where.path
            raise RuntimeError(
                f"backward: {name} was changed after the forward of {node.operation!r}, which needs it.\n"
                "Make a new tensor (y = y * 10, not y.data *= 10), and change parameters only after backward"
            )


def _checksum(kept: Any) -> int:
    return checksum(kept if hasattr(kept, "nbytes") else kept.data)
