"""What loaders and tokenizers accept: whole numbers as ids and labels, numbers as samples; anything else by name."""

from typing import Any

import numpy as np

from ..backend import as_ids, is_float, to_host, xp
from ..errors import UserError, shown


def as_row(name: str, value: Any) -> np.ndarray:
    """Ids or labels, a list or an array of one axis, as an array of whole numbers on the host.

    Raises UserError for anything else.
    """
    try:
        ids = to_host(as_ids(name, value))
    except TypeError as error:
        raise UserError(str(error)) from error
    if ids.ndim != 1:
        raise UserError(f"{name} is {shown(value)}; it must be an array of whole numbers with one axis")
    return ids


def as_samples(name: str, value: Any) -> np.ndarray:
    """One row a sample, a list of rows or an array: floats, or whole numbers for a model that begins with an embedding.

    On the host, in this machine's byte order. Raises UserError for anything else: booleans, complex numbers, objects,
    masked values, text, floats that nothing here computes with.
    """
    array = _listed(value) if isinstance(value, (list, tuple)) else value
    if not isinstance(array, (np.ndarray, xp.ndarray)) or not array.ndim:
        raise UserError(f"{name} is {shown(value)}; it must be an array with one row a sample")
    dtype = array.dtype.newbyteorder("=")
    if isinstance(array, np.ma.MaskedArray) or not (is_float(dtype) or dtype.kind in "iu"):
        raise UserError(
            f"{name} is {shown(array)}; it must hold floats, such as float32, "
            "or whole numbers for a model that begins with an embedding"
        )
    return to_host(array if array.dtype.isnative else array.astype(dtype))


def _listed(rows: Any) -> Any:
    """Rows of numbers as an array; anything else as it is."""
    try:
        return np.asarray(rows)
    except (ValueError, OverflowError):  # rows of different lengths
        return rows
