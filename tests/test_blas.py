"""Products by another BLAS are NumPy's, to rounding, whatever the layout; what it cannot do stays with NumPy."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from minitrain import blas, environment
from minitrain.errors import UserError

BOUND = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
NUMPYS = "numpy.libs/libscipy_openblas64_*.so"  # NumPy's wheel on Linux contains one that can be called in the same way


class Own(np.ndarray):
    """Somebody's own kind of array."""


@pytest.fixture(params=[*filter(blas.find, blas.LIBRARIES), "NumPy's file"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use an installed library for products of any size; return the dtypes of the calls that it gets."""
    name = request.param
    if name not in blas.LIBRARIES:
        monkeypatch.setitem(blas.LIBRARIES, name, blas.LIBRARIES["openblas"]._replace(pattern=NUMPYS))
        if blas.find(name) is None:
            pytest.skip("this NumPy has no OpenBLAS of its own")
    calls: list[str] = []

    def counted(function: Callable[..., None], dtype: np.dtype) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            calls.append(dtype.name)
            function(*arguments)

        return call

    monkeypatch.setattr(blas, "FUNCTIONS", {dtype: counted(f, dtype) for dtype, f in blas.load(name).items()})
    monkeypatch.setattr(blas, "SMALL", 1)
    return calls


def drawn(shape: tuple[int, int], dtype: type, columns: bool, seed: int) -> np.ndarray:
    x: np.ndarray = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return np.asfortranarray(x) if columns else x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (1, 7, 5), (6, 1, 5), (6, 7, 1), (37, 64, 50)])
def test_products(n: int, k: int, m: int, dtype: type, library: list[str]) -> None:
    for turned in product((False, True), repeat=2):
        a, b = drawn((n, k), dtype, turned[0], 1), drawn((k, m), dtype, turned[1], 2)
        given = a.copy(), b.copy()
        right = a.astype(np.longdouble) @ b.astype(np.longdouble)
        bound = BOUND[a.dtype] * k**0.5
        whole: np.ndarray = np.full(n * m + 3, np.nan, dtype)
        into = whole[2:-1].reshape(n, m)  # a parameter's gradient, somewhere in its bucket
        assert blas.matmul(a, b, into) is into
        for y in (blas.matmul(a, b), into):
            assert y.dtype == dtype and y.shape == (n, m) and np.abs(y - right).max() <= bound
        assert np.isnan(whole[[0, 1, -1]]).all()
        assert (a == given[0]).all() and (b == given[1]).all()
    assert library == [np.dtype(dtype).name] * 8


def test_the_same_bits_wherever_an_array_begins(library: list[str]) -> None:
    n, k, m = 33, 70, 45
    a, b = drawn((n, k), np.float32, False, 1), drawn((k, m), np.float32, False, 2)
    found = set()
    for lo in range(16):
        moved, out = (np.empty(size + 16, np.float32)[lo : lo + size] for size in (n * k, n * m))
        moved[:] = a.ravel()
        found.add(blas.matmul(moved.reshape(n, k), b, out.reshape(n, m)).tobytes())
    assert len(found) == 1 and len(library) == 16


X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (X.astype(np.float16), X.T.astype(np.float16), None),
        (X.astype(np.int64), X.T.astype(np.int64), None),
        (X, X.T.astype(np.float64), None),
        (X, np.ones(4, np.float32), None),
        (X[None], X.T, None),
        (X[:, ::2], X[:2], None),
        (X[:, 1:3], X[:2], None),
        (X, X.T, np.zeros((3, 6), np.float32)[:, ::2]),
        (X, X.T, np.zeros((3, 3), np.float64)),
        (X, X.T, np.zeros((3, 3), np.float32).T),
        (X.view(Own), X.T, None),
        (np.zeros((0, 4), np.float32), X.T, None),
        (np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32), None),
    ],
    ids=["half", "whole", "two dtypes", "vector", "stack", "strided", "part", "strided out", "wide out", "columns out",
         "own kind", "no rows", "no terms"],
)  # fmt: skip
def test_what_stays_with_numpy(a: np.ndarray, b: np.ndarray, out: np.ndarray | None, library: list[str]) -> None:
    y = blas.matmul(a, b, out)
    assert library == [] and np.array_equal(y, np.matmul(a, b)) and y.dtype == np.matmul(a, b, out).dtype


def test_an_out_that_is_also_read(library: list[str]) -> None:
    a = np.arange(9, dtype=np.float32).reshape(3, 3)
    right = a @ a
    assert (blas.matmul(a, a, a) == right).all() and library == []


def test_numpy_refuses_what_does_not_fit(library: list[str]) -> None:
    with pytest.raises(ValueError, match="mismatch in its core dimension"):
        blas.matmul(X, X)
    with pytest.raises(ValueError, match="mismatch in its core dimension"):
        blas.matmul(X, X.T, np.zeros((3, 4), np.float32))
    read_only = np.zeros((3, 3), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        blas.matmul(X, X.T, read_only)
    assert library == []


def test_small_products_stay_with_numpy(library: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "SMALL", 37)
    blas.matmul(X, X.T)
    assert library == []
    monkeypatch.setattr(blas, "SMALL", 36)
    blas.matmul(X, X.T)
    assert library == ["float32"]


# Which library ------------------------------------------------------------------------------------------------------


def test_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINITRAIN_BLAS", raising=False)
    monkeypatch.setattr(blas, "find", {"openblas": Path("there")}.get)
    assert blas.chosen() == "openblas"
    monkeypatch.setattr(blas, "find", {}.get)
    assert blas.chosen() == "numpy"
    monkeypatch.setenv("MINITRAIN_BLAS", "mkl")
    assert blas.chosen() == "mkl"


def test_mistakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINITRAIN_BLAS", "atlas")
    with pytest.raises(UserError, match="MINITRAIN_BLAS is 'atlas'; allowed: 'numpy', 'mkl', 'openblas'"):
        blas.chosen()
    monkeypatch.setattr(blas, "find", {}.get)
    with pytest.raises(UserError, match="not installed: pip install 'minitrain\\[mkl\\]'"):
        blas.load("mkl")
    (tmp_path / "broken").write_text("not a library")
    monkeypatch.setattr(blas, "find", {"mkl": tmp_path / "broken"}.get)
    with pytest.raises(UserError, match="cannot be used"):
        blas.load("mkl")


def test_a_mistake_in_the_variable_is_a_sentence() -> None:
    """It is read when the package is imported."""
    program = "import os; os.environ['MINITRAIN_BLAS'] = 'atlas'; import minitrain"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "UserError: MINITRAIN_BLAS is 'atlas'" in done.stderr


FLAGS = "flags : fpu avx2 avx512f avx512vl\n"


@pytest.mark.parametrize(
    ("cpu", "kernel"),
    [
        (f"vendor_id : AuthenticAMD\ncpu family\t: 25\n{FLAGS}\ncpu family : 6\nflags : fp", "Zen"),
        ("vendor_id : AuthenticAMD\ncpu family : 25\nflags : fpu avx2\n", None),  # Zen 3
        (f"vendor_id : AuthenticAMD\ncpu family : 26\n{FLAGS}", None),  # Zen 5
        (f"vendor_id : GenuineIntel\ncpu family : 6\n{FLAGS}", None),
        ("processor: 0\nBogoMIPS: 50\n", None),
        (None, None),
    ],
)
def test_the_kernel_of_a_processor(
    cpu: str | None, kernel: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CPU", tmp_path / "cpuinfo")
    if cpu is not None:
        environment.CPU.write_text(cpu)
    chosen = environment.for_blas()
    assert chosen.pop("OPENBLAS_CORETYPE", None) == kernel and set(chosen.values()) == {"1"} and len(chosen) == 4


def test_they_are_set_before_numpy_is_imported() -> None:
    """Here it cannot be imported at all."""
    program = "import json, os, sys; sys.modules['numpy'] = None\n"
    program += "try: import minitrain\nexcept ImportError: print(json.dumps(dict(os.environ)))"
    wanted = environment.for_blas()
    others = {name: value for name, value in os.environ.items() if name not in (*wanted, "OPENBLAS_CORETYPE")}
    done = subprocess.run([sys.executable, "-c", program], env=others, capture_output=True)
    assert wanted.items() <= json.loads(done.stdout).items(), done.stderr


def test_what_the_user_sets_stays() -> None:
    given = dict.fromkeys(environment.for_blas(), "7") | {"OPENBLAS_CORETYPE": "Nehalem"}
    program = "import json, minitrain, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **given}, capture_output=True)
    assert given.items() <= json.loads(done.stdout).items()
