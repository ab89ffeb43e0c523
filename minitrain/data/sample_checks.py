"""What loaders and tokenizers accept: integers as ids and labels, numbers as samples. Errors name the argument."""

from typing import Any

import numpy as np

from ..backend import is_float, to_host, xp
from ..errors import UserError, shown
from ..operands import as_ids, is_masked, listed


def as_row(name: str, value: Any, flat: bool = False) -> np.ndarray:
    """Return ids or labels, a list or a one-axis array (any number of axes if `flat`), as one axis on the host.

    Raise UserError for anything else.
    """
    try:
        ids = to_host(as_ids(name, value))
    except TypeError as error:
        raise UserError(str(error)) from error
    if flat:
        return ids.reshape(-1)
    if ids.ndim != 1:
        raise UserError(f"{name} is {shown(value)}; it must be an array of whole numbers with one axis")
    return ids


def as_known(ids: Any, size: int) -> np.ndarray:
    """Return ids of any shape as one axis. Raise UserError unless they are whole numbers in 0..size-1."""
    ids = as_row("ids", [ids] if isinstance(ids, int) else ids, flat=True)
    wrong = (ids < 0) | (ids >= size)
    if wrong.any():
        position = int(wrong.argmax())
        raise UserError(
            f"id {ids[position]} at position {position} is not in the vocabulary: allowed are 0 to "
            f"{size - 1}; decode with the tokenizer that made the ids"
        )
    return ids


def as_samples(name: str, value: Any) -> np.ndarray:
    """Return a list of rows, or an array with one row per sample, as an array on the host in native byte order.

    Samples are floats, or integers for a model that starts with an embedding. Raise UserError for anything else:
    booleans, complex numbers, objects, masked values, text, unsupported float types.
    """
    array = listed(value)
    if not isinstance(array, (np.ndarray, xp.ndarray)) or not array.ndim:
        raise UserError(f"{name} is {shown(value)}; it must be an array with one row per sample")
    dtype = array.dtype.newbyteorder("=")
    if is_masked(array) or not (is_float(dtype) or dtype.kind in "iu"):
        raise UserError(
            f"{name} is {shown(array)}; it must hold floats, such as float32, "
            "or whole numbers for a model that starts with an embedding"
        )
    return to_host(array if array.dtype.isnative else array.astype(dtype))
