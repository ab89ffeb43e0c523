"""On a real GPU: one process computes the same as with NumPy. Skipped without CuPy and a device.

`make gpu` makes these comparisons, too, and more.
"""

from pathlib import Path

import pytest

from tests.gpu import operations, strict_run

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


@pytest.mark.parametrize("dtype", operations.BOUNDS)
@pytest.mark.parametrize("part", operations.PARTS)
def test_equal_to_numpy(device: str, part: str, dtype: str, tmp_path: Path) -> None:
    """Compare operations forward and backward, and losses, norms, gradients and parameters of GPT and MLP steps."""
    files = {backend: tmp_path / f"{backend}.npz" for backend in ("numpy", "cupy")}
    started = {backend: operations.start(backend, part, dtype, file) for backend, file in files.items()}
    expected, found = (operations.results(started[backend], file) for backend, file in files.items())
    worst, where = strict_run.compare(found, expected)
    assert worst <= operations.BOUNDS[dtype], f"on {device}, {dtype}: {worst:.1e} at {where}"
