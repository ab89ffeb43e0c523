"""Matrix products by another BLAS than NumPy's own, where one is installed: `pip install 'minitrain[mkl]'`.

NumPy's package contains OpenBLAS. Which library is fastest depends on the processor: oneMKL multiplies a GPT's float32
matrices 1.2 to 1.3 times as fast on an Intel Xeon with AVX-512, and more slowly on an AMD EPYC with AVX-512.
`python -m minitrain doctor` measures what this machine gains.

Every BLAS has C = alpha A B + beta C, for matrices stored by rows or by columns, as cblas_sgemm (float32) and
cblas_dgemm (float64). Products of small matrices stay with NumPy, since a call by ctypes takes microseconds, and so do
stacks of matrices. The results of two libraries differ by rounding.
Dongarra et al., "A set of level 3 basic linear algebra subprograms", 1990.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .errors import UserError, check_choice

BY_ROWS, AS_IT_IS, TRANSPOSED = 101, 111, 112  # constants of cblas.h
SMALL = 2**18  # multiplications: NumPy computes smaller products, in less than 6 microseconds


class Library(NamedTuple):
    """Where a package keeps its library, below a folder of sys.path or sys.prefix, and what it calls its functions."""

    pattern: str
    functions: dict[str, str]  # dtype -> name
    integer: type
    environment: dict[str, str]  # read by the library when it is loaded


LIBRARIES = {
    "mkl": Library(
        "lib/libmkl_rt.so*",
        {"float32": "cblas_sgemm", "float64": "cblas_dgemm"},
        ctypes.c_int,
        # one thread as for NumPy, unless asked for; the same bits wherever in memory an array begins
        {"MKL_NUM_THREADS": "1", "MKL_CBWR": "AUTO,STRICT"},
    ),
    "openblas": Library(
        "scipy_openblas64/lib/libscipy_openblas64_.so",
        {"float32": "scipy_cblas_sgemm64_", "float64": "scipy_cblas_dgemm64_"},
        ctypes.c_int64,
        {"OPENBLAS_NUM_THREADS": "1"},
    ),
}


def find(name: str) -> Path | None:
    """Return the file of a library; None if its package is not installed."""
    for folder in (sys.prefix, *sys.path):
        for path in sorted(Path(folder or ".").glob(LIBRARIES[name].pattern)):
            return path
    return None


def load(name: str) -> dict[np.dtype, Callable[..., None]]:
    """Return a library's functions, by dtype. Raise UserError if it is not installed, or cannot be loaded."""
    library, path = LIBRARIES[name], find(name)
    if path is None:
        raise UserError(f"MINITRAIN_BLAS is '{name}', which is not installed: pip install 'minitrain[{name}]'")
    for variable, value in library.environment.items():
        os.environ.setdefault(variable, value)
    try:
        file = ctypes.CDLL(str(path))
        functions = {np.dtype(dtype): getattr(file, function) for dtype, function in library.functions.items()}
    except (OSError, AttributeError) as error:
        raise UserError(f"MINITRAIN_BLAS is '{name}', but {path} cannot be used: {error}") from error
    n, address = library.integer, ctypes.c_void_p
    for dtype, function in functions.items():
        real = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        layout = [ctypes.c_int] * 3
        function.argtypes = [*layout, n, n, n, real, address, n, address, n, real, address, n]
        function.restype = None
    return functions


def chosen() -> str:
    """Return the BLAS to use: MINITRAIN_BLAS, or the first one that is installed. Raise UserError for other names."""
    name = os.environ.get("MINITRAIN_BLAS") or next((name for name in LIBRARIES if find(name)), "numpy")
    check_choice("MINITRAIN_BLAS", name, ("numpy", *LIBRARIES))
    return name


NAME = chosen()
FUNCTIONS = {} if NAME == "numpy" else load(NAME)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a @ b, in `out` if given, by the library in use if it takes these arrays, otherwise by NumPy."""
    if not FUNCTIONS or not _fits(a, b, out):
        return np.matmul(a, b, out=out)
    (n, k), m = a.shape, b.shape[1]
    if out is None:
        out = np.empty((n, m), a.dtype)
    (turn_a, step_a), (turn_b, step_b) = _layout(a), _layout(b)
    multiply, places = FUNCTIONS[a.dtype], [x.__array_interface__["data"][0] for x in (a, b, out)]
    multiply(BY_ROWS, turn_a, turn_b, n, m, k, 1.0, places[0], step_a, places[1], step_b, 0.0, places[2], m)
    return out


def _fits(a: np.ndarray, b: np.ndarray, out: np.ndarray | None) -> bool:
    """Return whether these are two large matrices of a dtype that the library knows, and out is one to write to."""
    if not (type(a) is type(b) is np.ndarray and a.ndim == b.ndim == 2 and a.dtype == b.dtype and a.dtype in FUNCTIONS):
        return False
    (n, k), m = a.shape, b.shape[1]
    if k != len(b) or n * k * m < SMALL or not (_stored(a) and _stored(b)):
        return False
    if out is None:
        return True
    apart = not (np.may_share_memory(out, a) or np.may_share_memory(out, b))
    return type(out) is np.ndarray and out.dtype == a.dtype and out.shape == (n, m) and apart and _rows(out)


def _rows(x: np.ndarray) -> bool:
    """Return whether x may be written, row after row."""
    return x.flags.c_contiguous and x.flags.aligned and x.flags.writeable


def _stored(x: np.ndarray) -> bool:
    """Return whether x is stored row after row, or column after column."""
    return (x.flags.c_contiguous or x.flags.f_contiguous) and x.flags.aligned


def _layout(x: np.ndarray) -> tuple[int, int]:
    """Return how cblas is told the order of a matrix, and the elements from one row (or column) to the next."""
    return (AS_IT_IS, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


def rate(seconds: float = 0.2) -> float:
    """Return the GFLOP/s of the BLAS in use on float32 matrices of a GPT: the median of the products in `seconds` s."""
    x, w = np.ones((512, 512), np.float32), np.ones((512, 1536), np.float32)
    y, start = matmul(x, w), perf_counter()
    taken: list[float] = []
    while len(taken) < 3 or perf_counter() - start < seconds:
        begun = perf_counter()
        matmul(x, w, y)
        taken.append(perf_counter() - begun)
    return 2e-9 * x.shape[0] * w.size / median(taken)
