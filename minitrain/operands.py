"""Convert the arguments of operations (numbers, lists and arrays) where that is safe, and reject the others.

NumPy would silently convert None to NaN, a fraction to an id, booleans to a mask, and two dtypes to the wider one.
`operation` in tensor.py checks that an argument is a Tensor.
"""

import contextlib
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import FLOAT_NAMES, WIDE, Array, is_float, xp
from .errors import UserError, check_number, check_whole, shown

if TYPE_CHECKING:
    from .tensor import Tensor


def as_floats(name: str, value: Any, dtype: Any = None) -> Array:
    """Return real numbers as a floating-point array, converted to `dtype` if given, otherwise unchanged.

    Raise TypeError for integers and booleans without a dtype, because arithmetic would stay in integers. Raise it also
    for anything but real numbers, much of which NumPy accepts silently (None becomes NaN, a mask is dropped).
    """
    if dtype is not None and not is_float(dtype):
        raise TypeError(f"{name}: dtype is {shown(dtype)}; tensors are floating point: give {FLOAT_NAMES}")
    array = value if isinstance(value, (np.ndarray, xp.ndarray)) else _read(value)
    if array is None or is_masked(value) or not (array.dtype.kind in "biuf" or array.dtype in WIDE):
        raise TypeError(f"{name}: {shown(value)} is not an array of real numbers; give an array or a list of them")
    native = array.dtype.newbyteorder("=")
    if dtype is None and native not in WIDE:
        raise TypeError(
            f"{name}: {shown(value)} has dtype {array.dtype}; tensors are floating point: {FLOAT_NAMES}.\n"
            "Give dtype='float32', or write 1.0 for 1. Ids and labels stay plain arrays"
        )
    if isinstance(array, np.ndarray):
        array = np.asarray(array, dtype or native)  # on the host: devices have no foreign byte order
    return xp.asarray(array, dtype=dtype or native)


def _read(value: Any) -> np.ndarray | None:
    """Convert a number, a list of numbers or an array-like object with NumPy. Return None if that fails."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError):  # a Tensor, a device array, rows of different lengths
        return None


def is_masked(value: Any) -> bool:
    """Return whether this is or contains a masked array: arithmetic on its plain numbers would drop the mask."""
    if isinstance(value, (list, tuple)):
        return any(map(is_masked, value))
    return isinstance(value, np.ndarray) and hasattr(value, "mask")  # np.ma itself takes 40 ms to import


def constant(name: str, x: Any, dtype: np.dtype) -> Array:
    """Return a real number, or a list of them, as an array of this dtype; a floating-point array is unchanged.

    Raise TypeError for anything else.
    """
    if (number := _number(x, dtype)) is not None:
        return number
    return as_floats(name, x, dtype if isinstance(x, (list, tuple)) else None)


def _number(value: Any, dtype: Any) -> Array | None:
    """Return a real number (Python's, or a 0-d array) as an array of this dtype; None for anything else."""
    if isinstance(value, (np.generic, np.ndarray, xp.ndarray)):
        real = not value.ndim and not is_masked(value) and (value.dtype.kind in "biuf" or value.dtype in WIDE)
        return xp.asarray(value, dtype=dtype) if real else None
    if isinstance(value, Real):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            return xp.asarray(float(value), dtype=dtype)
    return None


def as_ids(name: str, value: Any) -> Array:
    """Return ids or labels as an integer array; lists, tuples and ranges are converted, an array is unchanged.

    A converted list is on the host: operations call xp.asarray on the result.

    Raise TypeError for anything else: booleans would act as a mask, and fractions would be truncated.
    """
    ids = np.asarray(value) if isinstance(value, np.integer) else listed(value)
    if not isinstance(ids, (np.ndarray, xp.ndarray)) or is_masked(ids) or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} is {shown(value)}; it must be an array of whole numbers, such as int64")
    return ids if ids.dtype.isnative else ids.astype(ids.dtype.newbyteorder("="))


def listed(value: Any) -> Any:
    """Return a sequence of numbers or an array-like object as an array on the host; anything else unchanged.

    An empty list becomes int64.
    """
    array_like = hasattr(value, "__array__") and not isinstance(value, (np.ndarray, np.generic, xp.ndarray))
    if not (array_like or isinstance(value, (list, tuple, range))) or is_masked(value):
        return value
    try:
        return np.asarray(value, np.int64 if not array_like and not len(value) else None)
    except (TypeError, ValueError, OverflowError):  # rows of different lengths; a Tensor
        return value


def check_dtypes(operation: str, *tensors: "Tensor | Array | None") -> None:
    """Raise TypeError for different dtypes: NumPy would silently compute in the widest."""
    dtypes = [str(x.dtype) for x in tensors if x is not None]
    if len(set(dtypes)) > 1:
        raise TypeError(f"{operation}: the operands are {', '.join(dtypes)}; cast them to one dtype")


def check_parameters(operation: str, x: "Tensor", *parameters: "Tensor | None") -> None:
    """Raise TypeError unless all dtypes agree; half precision may be mixed with float32."""
    small = [p is None or (p.dtype.itemsize <= 4 and x.dtype.itemsize <= 4) for p in parameters]
    half = any(p is not None and p.dtype.itemsize < 4 for p in (x, *parameters))
    if not (half and all(small)):
        check_dtypes(operation, x, *parameters)


def shape_of(name: str, x: "Tensor", exactly: int = 0) -> tuple[int, ...]:
    """Return the shape of x. Raise ValueError unless it has `exactly` axes, or by default at least one."""
    if not x.shape or (exactly and x.ndim != exactly):
        raise ValueError(f"{name} has shape {x.shape}; it needs {exactly or 'at least 1'} axes")
    return x.shape


def as_number(name: str, value: Any, allowed: str) -> float:
    """Return the value as a Python float (a NumPy float64 would promote float32). Raise ValueError if not allowed."""
    try:
        check_number(name, value, allowed)
    except UserError as error:
        raise ValueError(str(error)) from None
    return float(value)


def as_whole(name: str, value: Any) -> int:
    """Return the value as an int. Raise ValueError unless it is a whole number of at least 0."""
    try:
        check_whole(name, value)
    except UserError as error:
        raise ValueError(str(error)) from None
    return int(value)
