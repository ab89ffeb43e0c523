"""The array library: NumPy, or CuPy when MINITRAIN_BACKEND=cupy. Chosen once per process.

Every other file writes `xp.exp(...)`, and this is the only one that imports cupy. What the two libraries do
differently, or NumPy does slowly, has a function here.
"""

import contextlib
import ctypes
import math
import os
import zlib
from numbers import Real
from typing import Any

import ml_dtypes
import numpy as np

from .environment import launched
from .errors import UserError, shown
from .observe import ledger

FLOATS = tuple(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)))  # what is computed with
FLOAT_NAMES = "float16, bfloat16, float32 or float64"
WIDE = {dtype: np.dtype(np.float32) if dtype.itemsize < 4 else dtype for dtype in FLOATS}  # sums are made in this
Array = np.ndarray  # or cupy.ndarray, which offers the same methods
LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")  # set by Open MPI's mpirun, by MPICH's


def _choose() -> Any:
    name = os.environ.get("MINITRAIN_BACKEND", "numpy")
    if name == "numpy":
        return np
    if name != "cupy":
        raise UserError(f"MINITRAIN_BACKEND is {shown(name)}; allowed: 'numpy', 'cupy'")
    try:
        import cupy
    except ImportError as error:
        raise UserError(
            "MINITRAIN_BACKEND is 'cupy', but cupy cannot be imported. Install it: pip install 'minitrain[cupy]'"
        ) from error
    return cupy


def _keep_freed_memory() -> None:
    """Asks glibc to keep large freed blocks for the next large array.

    By default each array above 128 KB is mapped anew and given back at once, and the kernel fills every page with
    zeros in between: a step of 0.5 M parameters took 27% longer, of 20 M 4%. Both thresholds are needed; elsewhere
    than on glibc nothing is done.
    """
    trim, mmap, most = -1, -3, 32 * 2**20  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, the largest value that is allowed
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap, most)
        mallopt(trim, 2**31 - 1)


def local_rank() -> int:
    """This rank's number among those on its machine; where mpirun does not tell it, among all."""
    said = [os.environ[name] for name in LOCAL_RANK if os.environ.get(name, "").isdecimal()]
    return int(said[0]) if said else launched()[1]


def use_device() -> None:
    """One rank, one device: the one with the local rank's number, counted round. CuPy only.

    CUDA keeps the choice per thread: a thread that computes has to call this as well.
    """
    try:
        count = xp.cuda.runtime.getDeviceCount()
    except xp.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"MINITRAIN_BACKEND is 'cupy', but there is no CUDA device to use: {error}") from error
    xp.cuda.Device(local_rank() % count).use()


xp: Any = _choose()
if xp is np:
    _keep_freed_memory()
else:
    use_device()


def to_host(array: Array) -> np.ndarray:
    """The same values as a NumPy array; a NumPy array is returned as it is."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_device(array: np.ndarray) -> Array:
    """The same values as an array of the chosen library."""
    return xp.asarray(array)


def is_float(dtype: Any) -> bool:
    """Whether this names a dtype that is computed with, one of FLOATS: as "float32" or np.float32 does."""
    with contextlib.suppress(TypeError, ValueError):
        return dtype is not None and np.dtype(dtype) in WIDE  # np.dtype(None) is float64
    return False


def as_floats(name: str, value: Any, dtype: Any = None) -> Array:
    """Numbers as an array of floating point; what is one already stays as it is. dtype: turns any real numbers into it.

    Raises TypeError for integers and booleans without a dtype, since arithmetic would stay with the integers, and for
    what is not real numbers: NumPy computes with much of it in silence (None becomes NaN, a mask is dropped).
    """
    if dtype is not None and not is_float(dtype):
        raise TypeError(f"{name}: dtype is {shown(dtype)}; tensors are floating point: give {FLOAT_NAMES}")
    array = value if isinstance(value, (np.ndarray, xp.ndarray)) else _read(value)
    if array is None or is_masked(value) or not (array.dtype.kind in "biuf" or array.dtype in WIDE):
        raise TypeError(f"{name}: {shown(value)} is not an array of real numbers; give an array or a list of them")
    own = array.dtype.newbyteorder("=")
    if dtype is None and own not in WIDE:
        raise TypeError(
            f"{name}: {shown(value)} has dtype {array.dtype}; tensors are floating point: {FLOAT_NAMES}.\n"
            "Give dtype='float32', or write 1.0 for 1. Ids and labels stay plain arrays"
        )
    if isinstance(array, np.ndarray):
        array = np.asarray(array, dtype or own)  # on the host: a device knows no foreign byte order
    return xp.asarray(array, dtype=dtype or own)


def _read(value: Any) -> np.ndarray | None:
    """What NumPy makes of a number, a list of numbers, or an object that says it is an array; None if it cannot."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError):  # a Tensor, an array of the device, rows of different lengths
        return None


def is_masked(value: Any) -> bool:
    """Whether this is a masked array or a list with one in it: arithmetic on the bare numbers would drop the mask."""
    if isinstance(value, (list, tuple)):
        return any(map(is_masked, value))
    return isinstance(value, np.ndarray) and hasattr(value, "mask")  # np.ma itself takes 40 ms to import


def constant(name: str, x: Any, dtype: np.dtype) -> Array:
    """An array of floating point as it is; a real number, or a list of them, as an array of this dtype.

    Raises TypeError for anything else.
    """
    if (number := _number(x, dtype)) is not None:
        return number
    return as_floats(name, x, dtype if isinstance(x, (list, tuple)) else None)


def _number(value: Any, dtype: Any) -> Array | None:
    """A real number, of Python or an array without axes, as an array of this dtype; None for anything else."""
    if isinstance(value, (np.generic, np.ndarray, xp.ndarray)):
        real = not value.ndim and not is_masked(value) and (value.dtype.kind in "biuf" or value.dtype in WIDE)
        return xp.asarray(value, dtype=dtype) if real else None
    if isinstance(value, Real):
        with contextlib.suppress(OverflowError):  # a whole number that no float can hold
            return xp.asarray(float(value), dtype=dtype)
    return None


def as_ids(name: str, value: Any) -> Array:
    """Ids or labels as an array of whole numbers: a list, a tuple or a range becomes one, an array stays as it is.

    What a list becomes lies on the host; an operation calls xp.asarray on the result.

    Raises TypeError for anything else: booleans and fractions would be taken for a mask, or cut off.
    """
    ids = np.asarray(value) if isinstance(value, np.integer) else listed(value)
    if not isinstance(ids, (np.ndarray, xp.ndarray)) or is_masked(ids) or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} is {shown(value)}; it must be an array of whole numbers, such as int64")
    return ids if ids.dtype.isnative else ids.astype(ids.dtype.newbyteorder("="))


def listed(value: Any) -> Any:
    """A sequence of numbers, or an object that NumPy knows how to read, as an array on the host; else what it was.

    An empty list has the dtype int64.
    """
    array_like = hasattr(value, "__array__") and not isinstance(value, (np.ndarray, np.generic, xp.ndarray))
    if not (array_like or isinstance(value, (list, tuple, range))) or is_masked(value):
        return value
    try:
        return np.asarray(value, np.int64 if not array_like and not len(value) else None)
    except (TypeError, ValueError, OverflowError):  # rows of different lengths; a Tensor
        return value


def pinned(array: Any, filled: bool = True) -> np.ndarray:
    """A device array's values, or only room for them, in host memory that the device copies to and from directly.

    The system may not move such memory. CuPy keeps what is freed for the next array of that size.
    """
    host = np.ndarray(array.shape, array.dtype, xp.cuda.alloc_pinned_memory(array.nbytes))
    return array.get(out=host) if filled else host


def unpin(host: np.ndarray, array: Any) -> None:
    """Copies pinned memory into a device array, and waits: what is freed early may be the next array's by then."""
    array.set(host)
    synchronize()


def synchronize() -> None:
    """Returns when the device has done all that it was given."""
    xp.cuda.get_current_stream().synchronize()


def wide(dtype: Any) -> Any:
    """The dtype in which sums of `dtype` are made: float32 for half precision, float64 and float32 themselves.

    Raises TypeError for any other: a sum of small integers would run over in silence.
    """
    try:
        return WIDE[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"dtype is {dtype}; what is computed with is floating point: {FLOAT_NAMES}") from None


ODD = xp.arange(1, 2**15, 2, dtype=np.uint64) * 0x9E3779B97F4A7C15  # odd numbers, so that no bit is multiplied away


def matmul(a: Array, b: Array, out: Array | None = None, dtype: Any = None) -> Array:
    """a @ b, into `out` when it is given, which may be wider than a and b. dtype: of a new result; a's unless given.

    Half precision is storage: the inputs are widened, multiplied and summed in float32, and the result is
    rounded, which is what a tensor core does (and 350 times faster than NumPy's own loop for float16).
    """
    dtype = (a.dtype if dtype is None else np.dtype(dtype)) if out is None else out.dtype
    wide(b.dtype)  # refuses what is not floating point
    if wide(a.dtype) == a.dtype or (xp is not np and a.dtype == dtype):
        product = xp.matmul(a, b, out=out)
        ledger.flops(2 * product.size * a.shape[-1])
        return product
    product = matmul(a.astype(np.float32), b.astype(np.float32))
    ledger.hold(product, "buffers", "matmul")
    if out is None:
        return product.astype(dtype, copy=False)
    out[...] = product
    return out


def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The mean over `axis` in x's own dtype, computed in float32 for half precision: a sum could be infinite there."""
    return xp.mean(x, axis=axis, keepdims=keepdims, dtype=wide(x.dtype)).astype(x.dtype)


def scatter_add(into: Array, item: Any, x: Array) -> None:
    """into[item] = the sum of the x with that item, 0 where there is none; made in float32 for half precision."""
    sums = into if into.dtype == wide(into.dtype) else xp.empty(into.shape, wide(into.dtype))
    sums[...] = 0
    xp.add.at(sums, item, x)
    if sums is not into:
        into[...] = sums


def total(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The sum over `axis` in x's own dtype, added up in float32 for half precision."""
    return xp.sum(x, axis=axis, keepdims=keepdims, dtype=wide(x.dtype)).astype(x.dtype)


def erf(x: Array) -> Array:
    """2/sqrt(pi) times the integral of e^(-t^2) over t = 0..x, for float32 and float64. NumPy has none.

    With t = x s it is 2x/sqrt(pi) times the integral of e^(-x^2 s^2) over s = 0..1, which Gauss's rule with 32 points
    gives with an error of at most 3e-15 for |x| < 6; beyond, erf is 1 or -1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)  # on -1..1
    x = xp.minimum(xp.maximum(x, -6), 6)
    square, y = -x * x, xp.zeros_like(x)
    for node, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        y += weight * xp.exp(node * node * square)
    return 2 / math.sqrt(math.pi) * x * y


def column_sums(x: Array) -> Array:
    """x (R, C) -> (C), float32 for half precision: as a product with ones, two to four times faster than a sum (1 to
    2% of a step)."""
    return matmul(xp.ones((1, len(x)), x.dtype), x, dtype=wide(x.dtype))[0]


def square(x: Array) -> float:
    """Return the sum of the squares of a flat array. It is finite for every finite x of at most 32 bits.

    Added up in float32 where that is wide enough. Where it is not (a number above 1.8e19 has a square that float32
    cannot hold, and one below 1e-23 has the square 0), once more in float64.
    """
    total = _square_in(wide(x.dtype), x)
    exact = x.dtype == np.float64 or 1e-30 < total < np.inf or (total == 0 and not x.any())
    return total if exact else _square_in(np.float64, x)


def _square_in(dtype: Any, x: Array) -> float:
    """Add up the squares in this dtype, a part at a time where x has to be converted."""
    step = len(x) if x.dtype == dtype else 32 * 1024
    parts = (x[lo : lo + step].astype(dtype, copy=False) for lo in range(0, len(x), step or 1))
    with np.errstate(over="ignore"):
        return float(sum(xp.dot(part, part) for part in parts))


def checksum(x: Any, before: int = 0) -> int:
    """Return a number that is another one for other bytes of the array, or of those `before`."""
    return zlib.crc32((x if isinstance(x, np.generic) else to_host(x)).tobytes(), before)


def fingerprints(x: Array) -> list[int]:
    """Return numbers that will be others when elements of the flat array x change or move, one for each 128 KB.

    A sum of the 64-bit words, each times an odd number of its own.
    """
    raw, size = x.view(np.uint8), 8 * len(ODD)
    whole = len(raw) // 8 * 8
    blocks = (raw[lo : min(lo + size, whole)].view(np.uint64) for lo in range(0, whole, size))
    return [int((words * ODD[: len(words)]).sum()) for words in blocks] + [hash(to_host(raw[whole:]).tobytes())]


def is_finite(x: Array) -> bool:
    """Whether no element is infinite or NaN."""
    return bool(xp.isfinite(x).all())


def row_dots(a: Array, b: Array) -> Array:
    """a, b (..., C) -> (..., 1): each row of a times that of b, without an array of all products (1% of a step)."""
    if xp is not np or a.dtype.itemsize < 4:  # CuPy has no vecdot
        return total(a * b, axis=-1, keepdims=True)
    return np.vecdot(a, b)[..., None]
