"""How fast this machine multiplies matrices and updates weights, and what would be faster: for the doctor.

Each library, and each kernel that NumPy's OpenBLAS can be told to use, is measured in a process of its own, since they
are chosen when minitrain and NumPy are imported.
"""

import ctypes
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from .. import blas, compiled
from ..nn import Parameter
from ..optim import Adam
from .child import child

KERNELS = ("Haswell", "Zen", "SkylakeX")  # OPENBLAS_CORETYPE: AVX2, AVX2 for AMD, AVX-512
PAYS = 1.05  # times as fast: less is not worth a variable
LIMIT = 20.0  # seconds for a measurement
PRODUCTS = "from minitrain import blas; print(blas.rate())"
UPDATES = "from minitrain.runtime import speed_checks; print(speed_checks.update_rate())"


def look_at_blas() -> tuple[str, str]:
    """Return the BLAS in use with its rate, and what would be faster on this machine: "" if nothing."""
    now = measured()
    if now is None:
        return f"{described()}: no result from a test product", ""
    rates = {change: measured(change) for change in changes()}
    better = {change: rate for change, rate in rates.items() if rate is not None and rate > PAYS * now}
    best = max(better, key=lambda change: better[change], default="")
    cure = f"{better[best]:.0f} GFLOP/s after: export {best}" if best else ""
    if not best and not any(map(blas.find, blas.LIBRARIES)) and intel_with_avx512():
        cure = "on this kind of processor oneMKL may be 1.2 times as fast; try: pip install 'minitrain[mkl]'"
    return f"{described()}: {now:.0f} GFLOP/s", cure


def look_at_loops() -> tuple[str, str]:
    """Return what updates weights, with its rate, and what would be faster on this machine: "" if nothing."""
    now = measured(program=UPDATES)
    if now is None:
        return f"{compiled.NAME}: no result from a test update", ""
    other = measured("MINITRAIN_KERNELS=numba", UPDATES) if compiled.NAME == "numpy" and find_spec("numba") else None
    pays = other is not None and other > PAYS * now
    cure = f"{other:.0f} M weights/s after: export MINITRAIN_KERNELS=numba" if pays else ""
    return f"{compiled.NAME}: Adam updates {now:.0f} M weights/s", cure


def update_rate(parameters: int = 2**22, times: int = 5) -> float:
    """Return how many million parameters a second Adam updates: the median of several updates."""
    w = Parameter("w", np.ones(parameters, np.float32))
    w.grad = np.ones(parameters, np.float32)
    optimizer, taken = Adam([w]), []
    for _ in range(1 + times):  # the first makes the state, and may compile
        begun = perf_counter()
        optimizer.step(1e-3)
        taken.append(perf_counter() - begun)
    return 1e-6 * parameters / median(taken[1:])


def changes() -> list[str]:
    """Return what can be set to use another library, or another kernel of NumPy's."""
    names = ["numpy", *filter(blas.find, blas.LIBRARIES)]
    found = [f"MINITRAIN_BLAS={name}" for name in names if name != blas.NAME]
    kernel = numpys_kernel() if blas.NAME == "numpy" else ""
    return found + [f"OPENBLAS_CORETYPE={name}" for name in KERNELS if kernel and name != kernel and supported(name)]


def described() -> str:
    """Return the name of the BLAS in use, with NumPy's version and kernel if it is NumPy's own."""
    if blas.NAME != "numpy":
        return blas.NAME
    about, kernel = np.show_config(mode="dicts")["Build Dependencies"]["blas"], numpys_kernel()
    return f"NumPy's {about.get('name', 'BLAS')} {about.get('version', '')}" + (f" ({kernel})" if kernel else "")


def numpys_kernel() -> str:
    """Return the kernel that the OpenBLAS in NumPy's wheel has chosen, such as SkylakeX; "" for another BLAS."""
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("libscipy_openblas64_*"):
        with suppress(OSError, AttributeError):
            function = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
            function.restype = ctypes.c_char_p
            return str(function().decode())
    return ""


def supported(kernel: str) -> bool:
    """Return whether this processor has the instructions of a kernel: one that lacks them would crash."""
    return {"SkylakeX": "avx512vl"}.get(kernel, "avx2") in processor()


def intel_with_avx512() -> bool:
    """Return whether this is an Intel processor with AVX-512."""
    return "GenuineIntel" in processor() and "avx512vl" in processor()


def processor() -> set[str]:
    """Return the words that Linux uses to describe the processor; none on other systems."""
    with suppress(OSError):
        return set(Path("/proc/cpuinfo").read_text().split())
    return set()


def measured(change: str = "", program: str = PRODUCTS) -> float | None:
    """Return the rate that a program prints in a process with this variable set, NAME=VALUE; None if it fails."""
    status, output = child([sys.executable, "-c", program], LIMIT, dict([change.split("=")] if change else []))
    with suppress(ValueError, IndexError):
        return float(output.splitlines()[-1]) if status == 0 else None  # after a library's warnings
    return None
