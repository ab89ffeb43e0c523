"""On a real GPU: one process computes the same as with NumPy. Skipped without CuPy and a device."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import strict_run

ROOT = Path(__file__).parents[2]
LIMIT = 600.0  # seconds: CuPy compiles each kernel at its first use

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> str:
    """Return the name of the GPU."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'minitrain[cupy]'")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"there is no CUDA device: {error}")
    if count == 0:
        pytest.skip("there is no CUDA device")
    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def computed(backend: str, out: Path, options: list[str]) -> strict_run.Results:
    """Return the results of strict_run in its own process: the backend is chosen once per process."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "MINITRAIN_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.gpu.strict_run", str(out), *options]
    ended = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "strict_cupy" not in ended.stdout, "this is the stand-in"
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("part", ["operations", "models", "ranks"])
def test_equal_to_numpy(device: str, part: str, dtype: str, bound: float, tmp_path: Path) -> None:
    """Compare every operation forward and backward, and losses, norms, gradients and parameters of GPT and MLP steps.

    (Three such steps with NumPy in float32 differ by 2e-6 from float64.)
    """
    options = ["--dtype", dtype, "--only", part]
    expected = computed("numpy", tmp_path / "numpy.npz", options)
    found = computed("cupy", tmp_path / "cupy.npz", options)
    worst, where = strict_run.compare(found, expected)
    assert worst <= bound, f"on {device}, {dtype}: {worst:.1e} at {where}"
