"""The strict stand-in refuses what CuPy refuses; everything one process computes runs on it and equals NumPy."""

import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain import backend
from minitrain.errors import UserError
from minitrain.runtime.mpirun import find_mpirun
from tests.gpu import strict_run
from tests.gpu.test_signatures import LACKING, stand_in
from tests.tiers import full

ROOT = Path(__file__).parents[2]
MPIRUN = find_mpirun()
LIMIT = 120.0  # seconds for one process
cupy: Any = stand_in()
HOST = np.arange(6.0).reshape(2, 3)


def x() -> Any:
    """Return HOST on the stand-in's device."""
    return cupy.asarray(HOST)


def set_item(array: Any, index: Any, value: Any) -> None:
    array[index] = value


def in_place(array: Any, value: Any) -> None:
    array += value


REFUSED: dict[str, tuple[Callable[[], Any], Any]] = {
    # implicit conversion
    "np.asarray": (lambda: np.asarray(x()), TypeError),
    "np.array": (lambda: np.array(x(), np.float32), TypeError),
    "np.array of a list": (lambda: np.array([x(), x()]), TypeError),
    "np.ascontiguousarray": (lambda: np.ascontiguousarray(x()), TypeError),
    "into a NumPy array": (lambda: set_item(HOST.copy(), slice(None), x()), TypeError),
    "an index of a NumPy array": (lambda: HOST[cupy.asarray(np.array([0, 1]))], (TypeError, IndexError)),
    "range": (lambda: range(cupy.asarray(np.array(3))), TypeError),
    "given to MPI": (lambda: x().__cuda_array_interface__, AttributeError),
    "np.testing": (lambda: np.testing.assert_array_equal(x(), HOST), TypeError),
    # NumPy arrays mixed in
    "x + numpy": (lambda: x() + HOST, TypeError),
    "numpy + x": (lambda: HOST + x(), TypeError),
    "x * numpy": (lambda: x() * HOST, TypeError),
    "x @ numpy": (lambda: x() @ HOST.T, TypeError),
    "numpy @ x": (lambda: HOST.T @ x(), TypeError),
    "x == numpy": (lambda: x() == HOST, TypeError),
    "x += numpy": (lambda: in_place(x(), HOST), TypeError),
    "numpy += x": (lambda: in_place(HOST.copy(), x()), TypeError),
    "x + a list": (lambda: x() + [1, 2, 3], TypeError),
    "x[...] = numpy": (lambda: set_item(x(), ..., HOST), ValueError),
    "x[0] = numpy": (lambda: set_item(x(), 0, HOST[0]), ValueError),
    "x[0] = a list": (lambda: set_item(x(), 0, [1.0, 2.0, 3.0]), (TypeError, ValueError)),
    "exp of numpy": (lambda: cupy.exp(HOST), TypeError),
    "exp into numpy": (lambda: cupy.exp(x(), out=HOST.copy()), TypeError),
    "multiply by numpy": (lambda: cupy.multiply(x(), HOST), TypeError),
    "matmul by numpy": (lambda: cupy.matmul(x(), HOST.T), TypeError),
    "matmul by a number": (lambda: cupy.matmul(x(), 2.0), TypeError),
    "concatenate with numpy": (lambda: cupy.concatenate([x(), HOST]), TypeError),
    "where with numpy": (lambda: cupy.where(x() > 1, x(), HOST), TypeError),
    "sum of numpy": (lambda: cupy.sum(HOST), TypeError),
    "broadcast_to of numpy": (lambda: cupy.broadcast_to(HOST, (2, 2, 3)), TypeError),
    "add.at into numpy": (lambda: cupy.add.at(HOST.copy(), 0, x()[0]), TypeError),
    "np.concatenate, mixed": (lambda: np.concatenate([x(), HOST]), TypeError),
    "np.add, mixed": (lambda: np.add(HOST, x()), TypeError),
    # functions that CuPy lacks
    **{
        name: (lambda name=name: getattr(cupy, name), AttributeError)  # type: ignore[misc]
        for name in LACKING
    },
    "np.vecdot": (lambda: np.vecdot(x(), x()), TypeError),
    "multiply.at": (lambda: cupy.multiply.at(x(), 0, 2.0), NotImplementedError),
    "add.at on int64": (lambda: cupy.add.at(cupy.arange(3), 0, 1), TypeError),
    # keywords that CuPy lacks
    "sum(initial=)": (lambda: cupy.sum(x(), initial=0), TypeError),
    "sum(where=)": (lambda: cupy.sum(x(), where=x() > 1), TypeError),
    "max(initial=)": (lambda: cupy.max(x(), initial=0), TypeError),
    "x.max(initial=)": (lambda: x().max(initial=0), TypeError),
    "x.min(where=)": (lambda: x().min(where=x() > 1), TypeError),
    "mean(where=)": (lambda: cupy.mean(x(), where=x() > 1), TypeError),
    "x.var(where=)": (lambda: x().var(where=x() > 1), TypeError),
    "exp(where=)": (lambda: cupy.exp(x(), where=x() > 1), TypeError),
    "take(mode=)": (lambda: cupy.take(x(), cupy.arange(2), mode="clip"), TypeError),
    "x.sort(stable=)": (lambda: x().sort(stable=True), TypeError),
    "zeros(device=)": (lambda: cupy.zeros(3, device="cpu"), TypeError),
    "empty(device=)": (lambda: cupy.empty(3, device="cpu"), TypeError),
    "clip(min=)": (lambda: cupy.clip(x(), min=0), TypeError),
    "np.sum(initial=)": (lambda: np.sum(x(), initial=0), TypeError),
    "a misaligned word": (
        lambda: x().astype(np.float32).reshape(-1)[1:5].view(np.uint64),
        cupy.cuda.runtime.CUDARuntimeError,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    call, error = REFUSED[what]
    with pytest.raises(error):
        call()


ALLOWED: dict[str, tuple[Callable[[], Any], Any]] = {
    "get": (lambda: x(), HOST),
    "numbers": (lambda: 2 * x() + 1 - True, 2 * HOST + 0),
    "NumPy numbers": (lambda: np.float64(2) * x() + np.int64(1), 2 * HOST + 1),
    "a list as an index": (lambda: x()[:, [0, 2, 2]], HOST[:, [0, 2, 2]]),
    "a NumPy array as an index": (lambda: x()[np.array([1, 0])], HOST[[1, 0]]),
    "its own array as an index": (lambda: x()[cupy.asarray(np.array([1, 1]))], HOST[[1, 1]]),
    "a mask": (lambda: x()[x() > 2], HOST[HOST > 2]),
    "np.exp": (lambda: np.exp(x()), np.exp(HOST)),
    "np.sum": (lambda: np.sum(x(), axis=0), HOST.sum(0)),
    "matmul into out": (lambda: cupy.matmul(x(), x().T, out=cupy.empty((2, 2))), HOST @ HOST.T),
    "a sum": (lambda: x().sum(), np.array(15.0)),
    "an element": (lambda: x()[1, 2], np.array(5.0)),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed(what: str) -> None:
    call, expected = ALLOWED[what]
    result = call()
    assert isinstance(result, cupy.ndarray), "a scalar"
    np.testing.assert_array_equal(result.get(), expected)


def test_memory() -> None:
    """A view is a view, host and device memory are separate, and `out` is returned."""
    array, host = x(), HOST.copy()
    copied, row, element = cupy.asarray(host), array[1], array[1, 2]
    row *= 10.0
    host[...] = 0
    assert float(element) == 50.0 and float(copied[1, 2]) == 5.0
    assert row.base is array and array.reshape(-1)[2:].base is array and array[[0]].base is None
    assert cupy.asarray(array) is array and array.astype(array.dtype, copy=False) is array
    assert cupy.exp(array, out=array) is array
    got = array.get()
    got[...] = 0
    assert float(array[0, 0]) == 1.0
    assert weakref.ref(array)() is array


def test_pinned_memory() -> None:
    """A copy from pinned memory is complete only after synchronize; new pinned memory is not zeroed."""
    host, pageable, array = np.ndarray((2, 3), float, cupy.cuda.alloc_pinned_memory(48)), np.empty((2, 3)), x()
    assert not (host == 0).any()
    cupy.COPIES.clear()
    assert array.get(out=host) is host and (host == HOST).all()
    host += 1
    array.set(host)
    assert np.isnan(array.get(out=pageable)).all()
    cupy.cuda.get_current_stream().synchronize()
    assert (array.get() == HOST + 1).all()
    array.set(pageable)
    assert cupy.COPIES == {
        ("to host", "pinned"): 1,
        ("to host", "pageable"): 2,
        ("to device", "pinned"): 1,
        ("to device", "pageable"): 1,
    }
    for wrong, error in ((host[:1], ValueError), (host.astype(np.float32), TypeError)):
        with pytest.raises(error):
            array.get(out=wrong)
        with pytest.raises(error):
            array.set(wrong)


# One rank, one device -------------------------------------------------------------------------------------------------

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8"}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        (OPEN_MPI, 5),
        (MPICH, 5),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, 0),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({**MPICH, "MPI_LOCALRANKID": "3"}, 3),
        ({**MPICH, "MPI_LOCALRANKID": ""}, 5),
    ],
)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_device_is_that_of_the_local_rank(
    environment: dict[str, str], rank: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*OPEN_MPI, *MPICH, *backend.LOCAL_RANK]:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "STRICT_CUPY_DEVICES": str(devices)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backend, "xp", cupy)
    assert backend.local_rank() == rank
    backend.use_device()
    assert cupy.cuda.Device().id == rank % devices


def test_no_device_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRICT_CUPY_DEVICES", "0")
    monkeypatch.setattr(backend, "xp", cupy)
    with pytest.raises(UserError, match=r"MINITRAIN_BACKEND is 'cupy', but there is no CUDA device.*NoDevice"):
        backend.use_device()


@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
def test_the_ranks_of_mpirun_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of local ranks, which may differ from the order of ranks with Open MPI."""
    monkeypatch.setenv("STRICT_CUPY_DEVICES", "2")
    program = """
        from minitrain.backend import xp
        from minitrain.runtime.launch import launch
        with launch() as world:
            devices = world.gather_objects(xp.cuda.Device().id)
            print(sorted(devices) if world.rank == 0 else "")
    """
    ended = process("cupy", ["-c", textwrap.dedent(program)], (str(MPIRUN), "-n", "3"))
    assert ended.returncode == 0, ended.stderr
    assert "[0, 0, 1]" in ended.stdout


# Programs on it -------------------------------------------------------------------------------------------------------


def process(backend: str, arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run Python with this backend, with the stand-in as its cupy."""
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if backend == "cupy":
        path.insert(0, str(ROOT / "tests" / "gpu" / "strict_cupy"))
    env = {**os.environ, "MINITRAIN_BACKEND": backend, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return subprocess.run(
        [*launcher, sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )


def computed(backend: str, out: Path, options: list[str], launcher: tuple[str, ...] = ()) -> strict_run.Results:
    ended = process(backend, ["-m", "tests.gpu.strict_run", str(out), *options], launcher)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ("strict_cupy" in ended.stdout) == (backend == "cupy"), "another cupy was imported"
    with np.load(out) as file:
        return dict(file)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, strict_run.Results]:
    """Return backend -> everything that one process computes, in both dtypes."""
    folder, options = tmp_path_factory.mktemp("results"), ["--dtypes", "float64", "float32"]
    return {backend: computed(backend, folder / f"{backend}.npz", options) for backend in ("numpy", "cupy")}


@pytest.mark.parametrize("part", ["operations", "models", "ranks"])
def test_the_same_numbers(part: str, results: dict[str, strict_run.Results]) -> None:
    """Losses, gradients and parameters agree, in float64 and in float32, where a NumPy scalar would widen."""
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
        expected, found = (
            {name: x for name, x in results[backend].items() if name.startswith(f"{part} {dtype}: ")}
            for backend in ("numpy", "cupy")
        )
        worst, where = strict_run.compare(found, expected)
        assert worst <= bound, (dtype, worst, where)
        assert len(expected) > 50


@pytest.mark.full
@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
def test_device_arrays_are_staged_for_mpi(tmp_path: Path) -> None:
    launcher = (str(MPIRUN), "-n", "2")
    expected = computed("numpy", tmp_path / "numpy.npz", ["--only", "mpi"], launcher)
    found = computed("cupy", tmp_path / "cupy.npz", ["--only", "mpi"], launcher)
    worst, where = strict_run.compare(found, expected)
    assert worst <= 1e-12, (worst, where)


@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
@pytest.mark.parametrize("how", ["staged", full("direct")])
def test_each_operation_copies_what_it_must(how: str) -> None:
    ended = process("cupy", ["-m", "tests.gpu.strict_staging", how], (str(MPIRUN), "-n", "3"))
    assert ended.returncode == 0 and "3 ranks: all_reduce" in ended.stdout, ended.stdout + ended.stderr


TRAIN = "-m minitrain train --steps 2 --warmup 0 --width 16 --heads 2 --layers 1 --context 8 --batch 64 --sample 5"


@pytest.mark.parametrize("comm", ["one process", full("mpi"), full("ring")])
def test_the_command_line(comm: str, tmp_path: Path) -> None:
    """Training, validation, checkpoint and sample run as a user starts them."""
    options = [*TRAIN.split(), "--validation", "0.001", "--val-every", "1", "--out", str(tmp_path)]
    launcher: tuple[str, ...] = ()
    if comm != "one process":
        if MPIRUN is None:
            pytest.skip("there is no mpirun")
        launcher, options = (MPIRUN, "-n", "2"), [*options, "--comm", comm]
    ended = process("cupy", options, launcher)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "model.safetensors").exists()


def test_every_operation_is_called() -> None:
    assert strict_run.uncalled() == [], "add a row to TABLE in tests/gpu/strict_run.py"


def test_backend_on_a_device() -> None:
    """Halves are multiplied as halves, with float32 results, however they are stored; words are read where they may be.

    (The sum of 4096 ones is 2048 in float16, which adds 1 to 2048 in vain.)
    """
    program = """
        import itertools
        import numpy as np
        from minitrain.backend import CHUNK, fingerprints, matmul, to_device, to_host, xp

        def no_product(a, b, out=None):
            raise AssertionError(f"a product of {a.dtype}")

        def stored(x, how):
            if how == "in columns":
                return to_device(x.T.copy()).T
            return to_device(x) if how == "in rows" else to_device(np.repeat(x, 2, axis=1))[:, ::2]

        draw, HOW = np.random.default_rng(1), ("in rows", "in columns", "apart")
        real = xp.matmul
        xp.HERE["matmul"] = no_product
        for n, k, m in [(3, 4, 5), (1, 4, 1), (2, 1, 3), (1, 1, 7), (6, 2, 1)]:
            for how_a, how_b, given in itertools.product(HOW, HOW, (False, True)):
                a, b = (draw.standard_normal(shape).astype(np.float16) for shape in ((n, k), (k, m)))
                turned = [stored(x, how) for x, how in ((a, how_a), (b, how_b))]
                out = xp.empty((n, m), np.float32) if given else None
                product = matmul(*turned, out=out, dtype=np.float32)
                assert product.dtype == np.float32 and (out is None or product is out)
                np.testing.assert_allclose(to_host(product), a.astype(np.float32) @ b.astype(np.float32), 1e-6, 1e-6)
        ones = to_device(np.ones((1, 4096), np.float16))
        assert float(matmul(ones, ones.T, dtype=np.float32)[0, 0]) == 4096
        xp.HERE["matmul"] = real
        assert matmul(ones, ones.T.astype(np.float32)).dtype == np.float16
        x = to_device(np.arange(40, dtype=np.float32))
        assert fingerprints(x[1:30]) == fingerprints(x[1:30].copy()) != fingerprints(x[2:31])
        assert CHUNK >= 2**20, "each block costs a GPU some kernels' launches"
    """
    ended = process("cupy", ["-c", textwrap.dedent(program)])
    assert ended.returncode == 0, ended.stderr


# Each is correct on NumPy and replaces a function of backend.py.
MISTAKES = {
    "a NumPy array mixed in": (
        "column_sums",
        "lambda x: backend.matmul(np.ones((1, len(x)), x.dtype), x)[0]",
        "TypeError: Unsupported type <class 'numpy.ndarray'>",
    ),
    "implicit conversion": (
        "mean",
        "lambda x, axis=None, keepdims=False: xp.asarray(np.asarray(x).mean(axis, keepdims=keepdims))",
        "TypeError: Implicit conversion to a NumPy array is not allowed",
    ),
    "a function CuPy lacks": (
        "row_dots",
        "lambda a, b: xp.vecdot(a, b)[..., None]",
        "AttributeError: module 'cupy' has no attribute 'vecdot'",
    ),
    "a keyword CuPy lacks": (
        "total",
        "lambda x, axis=None, keepdims=False: xp.sum(x, axis=axis, keepdims=keepdims, initial=0).astype(x.dtype)",
        "TypeError: sum() got an unexpected keyword argument 'initial'",
    ),
}


def test_planted_mistakes_are_caught() -> None:
    """Each mistake in turn replaces the backend's function while all operations run."""
    program = textwrap.dedent("""
        import numpy as np
        from unittest.mock import patch
        from minitrain import backend
        from minitrain.backend import xp
        from tests.gpu import strict_run, test_stand_in
        for mistake, (name, wrong, _) in test_stand_in.MISTAKES.items():
            with patch.object(backend, name, eval(wrong)):
                try:
                    strict_run.operations("float64")
                except Exception as error:
                    print(f"{mistake}: {type(error).__name__}: {error}")
    """)
    on_numpy, caught = (process(backend, ["-c", program]) for backend in ("numpy", "cupy"))
    assert on_numpy.returncode == 0 and on_numpy.stdout == "", "a mistake is one on NumPy as well"
    assert caught.returncode == 0, caught.stderr
    for mistake, (_, _, error) in MISTAKES.items():
        assert f"{mistake}: {error}" in caught.stdout, mistake
