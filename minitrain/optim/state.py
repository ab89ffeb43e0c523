"""Named optimizer state."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..errors import UserError, shown
from .pieces import Piece


class Part(NamedTuple):
    """A part of a state array, which has a parameter's shape: elements `run` of its slice `held`, flattened."""

    array: np.ndarray
    held: tuple[slice, ...]
    run: slice


State = Mapping[str, "Part | np.ndarray | int"]


def fitting(name: str, part: object, piece: Piece, array: Array) -> np.ndarray:
    """Return the values (n) that a state has for this piece. Raise UserError if the slice, shape or dtype differs."""
    where = piece.parameter.placement
    if isinstance(part, np.ndarray) and part.shape == where.shape:
        found = part[where.index].reshape(-1)[piece.run]
    elif isinstance(part, Part) and (part.held, part.run) == (where.index, piece.run):
        found = part.array
    else:
        raise UserError(
            f"the state has {shown(part)} for {name}; this rank needs elements {piece.run.start} to {piece.run.stop} "
            f"of {where.index}.\nLoad it on the mesh that saved it, or gather it with train.checkpoint.gather_state"
        )
    if found.dtype != array.dtype or found.shape != array.shape:
        raise UserError(f"the state has {found.dtype}, shape {found.shape}, for {name}; expected {array.dtype}")
    return found
