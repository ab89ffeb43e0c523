"""The memory of NumPy's arrays: whose it is, where a view begins, and its bytes."""

import numpy as np

from ..backend import FLOATS

SMALL = {dtype.name: dtype for dtype in FLOATS if dtype.kind == "V"}  # NumPy calls them void


def known(dtype: np.dtype) -> bool:
    """Return whether arrays of this type are numbers or texts, of some size."""
    return (dtype.kind in "biufcSUmM" or dtype.name in SMALL) and dtype.itemsize > 0


def dtype_of(name: str) -> np.dtype:
    """Return the type of this name. Raise ValueError if arrays of it cannot be sent."""
    dtype = SMALL[name] if name in SMALL else np.dtype(str(name))
    if not known(dtype):
        raise ValueError(f"arrays of {name!r}")
    return dtype


def owner_of(x: np.ndarray) -> np.ndarray:
    """Return the array that x is a view of, or else x."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def contiguous(owner: np.ndarray) -> bool:
    """Return whether the array has its memory for itself and without gaps."""
    return owner.base is None and (owner.flags.c_contiguous or owner.flags.f_contiguous)


def address(x: np.ndarray) -> int:
    """Return where the array begins in memory."""
    return int(x.__array_interface__["data"][0])


def memory(owner: np.ndarray) -> np.ndarray:
    """Return the bytes of a contiguous array, as a view."""
    return (owner if owner.flags.c_contiguous else owner.T).reshape(-1).view(np.uint8)


def fill(x: np.ndarray, content: bytes) -> None:
    """Replace the values of an array, unless it is read-only."""
    if x.flags.writeable and x.size:
        x[...] = np.ndarray((len(content),), np.uint8, content).view(x.dtype).reshape(x.shape)


def name_of(dtype: np.dtype) -> str:
    """Return the name under which `dtype_of` finds the type."""
    return dtype.name if dtype.kind == "V" else dtype.str
