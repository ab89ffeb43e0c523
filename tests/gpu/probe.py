"""What the device and this Python offer, one line of JSON each: a part of `make gpu`, since an import may crash."""

import importlib
import sys
from typing import Any

from tests.benchmarks import jobs


def device() -> dict[str, Any]:
    """Return the device's name, memory and versions; {"error": ...} if there is none that CuPy can compute on."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        found = cupy.cuda.runtime.getDeviceProperties(0)
        float((cupy.ones((2, 2)) @ cupy.ones((2, 2))).sum())  # compiles a kernel, and loads cuBLAS
    except Exception as error:  # ImportError, CUDARuntimeError, a library that cannot be loaded
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "device": found["name"].decode(),
        "devices": count,
        "memory_gb": round(found["totalGlobalMem"] / 1e9, 1),
        "compute_capability": f"{found['major']}.{found['minor']}",
        "cupy": cupy.__version__,
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "stand_in": hasattr(cupy, "COPIES"),
        "numpy": importlib.import_module("numpy").__version__,
        "python": sys.version.split()[0],
    }


def mpi() -> dict[str, Any]:
    """Return the mpirun and the MPI library that mpi4py uses; "" for what is missing."""
    from minitrain.runtime.mpirun import find_mpirun

    found = {"mpirun": find_mpirun() or "", "mpi": ""}
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI

        return found | {"mpi": MPI.Get_library_version().splitlines()[0].strip("\x00 ")}
    except (ImportError, RuntimeError):
        return found


if __name__ == "__main__":
    jobs.begin()
    jobs.report(device())
    jobs.report(mpi())
