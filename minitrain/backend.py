"""The array library: NumPy, or CuPy if MINITRAIN_BACKEND=cupy. Chosen once per process.

All other files call `xp.exp(...)` and so on; only this one imports cupy. It has a function for everything that the
two libraries do differently or NumPy does slowly.
"""

import contextlib
import ctypes
import math
import os
import zlib
from typing import Any

import numpy as np

from . import blas
from .environment import launched
from .errors import UserError, shown
from .observe import ledger


def bfloat16() -> np.dtype:
    """Return the dtype bfloat16, which NumPy lacks. Raise UserError without the package ml_dtypes, which defines it."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise UserError(
            "bfloat16 needs the package ml_dtypes, which this Python does not have: pip install ml_dtypes, "
            "or use float16"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def _floats() -> tuple[np.dtype, ...]:
    """Return the dtypes of tensors; without ml_dtypes, all but bfloat16."""
    found = list(map(np.dtype, (np.float16, np.float32, np.float64)))
    with contextlib.suppress(UserError):
        found.insert(1, bfloat16())
    return tuple(found)


FLOATS = _floats()
FLOAT_NAMES = "float16, bfloat16, float32 or float64"
WIDE = {dtype: np.dtype(np.float32) if dtype.itemsize < 4 else dtype for dtype in FLOATS}  # accumulation dtypes
Array = np.ndarray  # or cupy.ndarray, which offers the same methods
LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")  # set by the mpirun of Open MPI and of MPICH


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
    """Ask glibc to keep large freed blocks for the next large array.

    By default glibc maps each array above 128 KB anew and unmaps it when freed, and the kernel zeroes every page in
    between: a step took 27% longer with 0.5 M parameters, 4% longer with 20 M. Both thresholds are needed. Do nothing
    without glibc.
    """
    trim, mmap, most = -1, -3, 32 * 2**20  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, the largest allowed value
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap, most)
        mallopt(trim, 2**31 - 1)


def local_rank() -> int:
    """Return this rank's number among those on its machine; among all ranks if mpirun does not set it."""
    given_ranks = [os.environ[name] for name in LOCAL_RANK if os.environ.get(name, "").isdecimal()]
    return int(given_ranks[0]) if given_ranks else launched()[1]


def use_device() -> None:
    """Select this rank's CUDA device: local rank modulo the number of devices. CuPy only.

    CUDA keeps the choice per thread, so every thread that computes must call this. Raise UserError without a device.
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
    """Return the values as a NumPy array; a NumPy array is returned unchanged."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_device(array: np.ndarray) -> Array:
    """Return the values as an array of the chosen library."""
    return xp.asarray(array)


def is_float(dtype: Any) -> bool:
    """Return whether this names one of FLOATS, as "float32" and np.float32 do."""
    with contextlib.suppress(TypeError, ValueError):
        return dtype is not None and np.dtype(dtype) in WIDE  # np.dtype(None) is float64
    return False


def pinned(array: Any, filled: bool = True) -> np.ndarray:
    """Return a device array's values (filled=False: uninitialized space for them) in pinned host memory.

    The device copies to and from such memory directly: the system may not move it. CuPy reuses freed blocks.
    """
    host = np.ndarray(array.shape, array.dtype, xp.cuda.alloc_pinned_memory(array.nbytes))
    return array.get(out=host) if filled else host


def unpin(host: np.ndarray, array: Any) -> None:
    """Copy pinned memory to a device array and wait: a block freed early could already be reused."""
    array.set(host)
    synchronize()


def synchronize() -> None:
    """Wait until the device has finished all work queued on the current stream."""
    xp.cuda.get_current_stream().synchronize()


def accumulation_dtype(dtype: Any) -> Any:
    """Return the dtype in which to accumulate sums of `dtype`: float32 for half precision, otherwise `dtype` itself.

    Raise TypeError for anything but floating point: sums of small integers would overflow silently.
    """
    try:
        return WIDE[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"dtype is {dtype}; it must be floating point: {FLOAT_NAMES}") from None


# Elements to process at a time: on a CPU what fits in the cache, on a GPU enough for a kernel's launch not to matter.
CHUNK = 2**15 if xp is np else 2**24
# For words: odd factors keep every bit of one.
ODD = xp.arange(1, CHUNK if xp is np else 2**21, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def matmul(a: Array, b: Array, out: Array | None = None, dtype: Any = None) -> Array:
    """Return a @ b, (..., n, k) (..., k, m) -> (..., n, m), in `dtype` (default: a's), or in `out` and its dtype.

    Half precision is a storage format: the inputs are converted to float32, multiplied and summed there, and the
    result is rounded, as a tensor core does (350 times faster than NumPy's own loop for float16). On a GPU, matrices
    of halves go to the tensor cores, and so do stacks of them if the result is half and CuPy sends them there.
    """
    dtype = (a.dtype if dtype is None else np.dtype(dtype)) if out is None else out.dtype
    accumulation_dtype(b.dtype)  # raises unless floating point
    halves = xp is not np and a.dtype == b.dtype == np.float16
    if accumulation_dtype(a.dtype) == a.dtype or (halves and a.dtype == dtype):
        product = (blas if xp is np else xp).matmul(a, b, out=out)
        ledger.flops(2 * product.size * a.shape[-1])
        return product
    rows = out is None or out.flags.c_contiguous
    if halves and dtype == np.float32 and a.ndim == b.ndim == 2 and a.size and b.size and rows:
        ledger.flops(2 * len(a) * b.shape[1] * len(b))
        return _product_of_halves(a, b, xp.empty((len(a), b.shape[1]), dtype) if out is None else out)
    product = matmul(a.astype(np.float32), b.astype(np.float32))
    ledger.hold(product, "buffers", "matmul")
    if out is None:
        return product.astype(dtype, copy=False)
    out[...] = product
    return out


def _product_of_halves(a: Array, b: Array, out: Array) -> Array:
    """Write a @ b, (n, k) (k, m) -> (n, m), to out: from float16 to float32, on the tensor cores. CuPy only.

    CuPy's own product would round the result to float16. cuBLAS reads and writes columns, and so sees the transpose of
    what is stored in rows: it computes out^T = b^T a^T.
    """
    (n, k), m = a.shape, b.shape[1]
    (a, turn_a), (b, turn_b) = _in_rows(a), _in_rows(b)
    step_a, step_b = n if turn_a else k, k if turn_b else m  # from one column to the next
    xp._core._routines_linalg.tensordot_core_v11(turn_b, turn_a, m, n, k, b, step_b, a, step_a, out, m)
    return out


def _in_rows(x: Array) -> tuple[Array, int]:
    """Return (x, 0) if x is stored row by row, and (x, 1) if its transpose is; otherwise copy it."""
    if x.flags.c_contiguous:
        return x, 0
    return (x, 1) if x.flags.f_contiguous else (xp.ascontiguousarray(x), 0)


def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """Return the mean over `axis` in x's dtype. Half precision is summed in float32, as its own sum could overflow."""
    return xp.mean(x, axis=axis, keepdims=keepdims, dtype=accumulation_dtype(x.dtype)).astype(x.dtype)


WIDE_ROW = 64  # elements: below, a loop over rows is slower than NumPy's over elements


def scatter_add(into: Array, item: Any, x: Array) -> None:
    """Set into[i] to the sum of the x whose item is i, 0 if none; accumulate half precision in float32."""
    sums = (
        into if into.dtype == accumulation_dtype(into.dtype) else xp.empty(into.shape, accumulation_dtype(into.dtype))
    )
    sums[...] = 0
    by_row = xp is np and sums.ndim == 2 and isinstance(item, np.ndarray) and item.dtype.kind in "iu"
    if by_row and x.shape[-1] >= WIDE_ROW:
        for row, values in zip(item.reshape(-1).tolist(), x.reshape(-1, x.shape[-1]), strict=True):
            sums[row] += values  # add.at adds element by element (1% of a step with 0.5 M or 3.4 M parameters)
    else:
        xp.add.at(sums, item, x)
    if sums is not into:
        into[...] = sums


def total(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """Return the sum over `axis` in x's dtype; accumulate half precision in float32."""
    return xp.sum(x, axis=axis, keepdims=keepdims, dtype=accumulation_dtype(x.dtype)).astype(x.dtype)


def erf(x: Array) -> Array:
    """Return erf(x) = 2/sqrt(pi) times the integral of e^(-t^2) over t = 0..x, in float32 or float64. NumPy lacks it.

    With t = x s it is 2x/sqrt(pi) times the integral of e^(-x^2 s^2) over s = 0..1. Gauss-Legendre quadrature with 32
    points computes that with an error of at most 3e-15 for |x| < 6; beyond, erf is 1 or -1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)  # on -1..1
    x = xp.minimum(xp.maximum(x, -6), 6)
    square, y = -x * x, xp.zeros_like(x)
    for node, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        y += weight * xp.exp(node * node * square)
    return 2 / math.sqrt(math.pi) * x * y


def column_sums(x: Array) -> Array:
    """Sum over rows, x (R, C) -> (C), float32 for half precision. A product with ones is two to four times faster than
    a sum (1 to 2% of a step)."""
    return matmul(xp.ones((1, len(x)), x.dtype), x, dtype=accumulation_dtype(x.dtype))[0]


def square(x: Array) -> float:
    """Return the sum of squares of a flat array. It is finite for every finite x of at most 32 bits.

    Accumulate in float32, and repeat in float64 if that may have overflowed (as the square of a number above 1.8e19
    does) or underflowed (the square of a number below 1e-23 is 0).
    """
    total = _square_in(accumulation_dtype(x.dtype), x)
    exact = x.dtype == np.float64 or 1e-30 < total < np.inf or (total == 0 and not x.any())
    return total if exact else _square_in(np.float64, x)


def _square_in(dtype: Any, x: Array) -> float:
    """Sum the squares in this dtype, in chunks if x has to be converted."""
    with np.errstate(over="ignore"):
        if x.dtype == dtype:
            return float(xp.dot(x, x))
        parts = (x[lo : lo + CHUNK].astype(dtype) for lo in range(0, len(x), CHUNK))
        return float(sum(xp.dot(part, part) for part in parts))


def checksum(x: Any, before: int = 0) -> int:
    """Return the CRC-32 of the array's bytes, continuing from the checksum `before`."""
    return zlib.crc32((x if isinstance(x, np.generic) else to_host(x)).tobytes(), before)


def fingerprints(x: Array) -> list[int]:
    """Return numbers, one per 128 KB, that differ after elements of the flat array x change or move.

    Each is a sum of 64-bit words, each word times its own odd number. (The numbers are fewer on a GPU, where the bytes
    are copied first: it reads words only from addresses that are multiples of 8, and x may start anywhere.)
    """
    raw, size = x.view(np.uint8), 8 * len(ODD)
    whole = len(raw) // 8 * 8
    bytes_of = (raw[lo : min(lo + size, whole)] for lo in range(0, whole, size))
    blocks = ((part if xp is np else part.copy()).view(np.uint64) for part in bytes_of)
    return [int((words * ODD[: len(words)]).sum()) for words in blocks] + [hash(to_host(raw[whole:]).tobytes())]


def is_finite(x: Array) -> bool:
    """Return whether every element is finite."""
    return bool(xp.isfinite(x).all())


def row_means(x: Array) -> Array:
    """Return the means over the last axis, x (..., C) -> (..., 1), of float32 or float64. On a CPU, a product with ones
    takes half the time of a sum (0.5% of a step)."""
    if xp is not np:
        return xp.mean(x, axis=-1, keepdims=True)
    return row_dots(x, xp.ones(x.shape[-1], x.dtype)) / x.shape[-1]


def row_dots(a: Array, b: Array) -> Array:
    """Return row-wise dot products, a, b (..., C) -> (..., 1), without an array of all products (1% of a step)."""
    if xp is not np or a.dtype.itemsize < 4:  # CuPy has no vecdot
        return total(a * b, axis=-1, keepdims=True)
    return np.vecdot(a, b)[..., None]
