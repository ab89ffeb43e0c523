"""What the doctor says about the BLAS and the loops, with rates given instead of measured."""

import pytest

from minitrain import blas, compiled
from minitrain.runtime import speed_checks

LOOPS, UPDATES = " of loops", speed_checks.UPDATES
RATES = {
    LOOPS: 200.0,
    "": 100.0,
    "MINITRAIN_BLAS=mkl": 104.0,
    "OPENBLAS_CORETYPE=Haswell": 110.0,
    "OPENBLAS_CORETYPE=Zen": 106.0,
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """An AMD processor with MKL and NumPy's OpenBLAS, whose kernel is SkylakeX."""
    rates = dict(RATES)

    monkeypatch.setattr(blas, "NAME", "numpy")
    monkeypatch.setattr(blas, "find", {"mkl": "there"}.get)
    monkeypatch.setattr(
        speed_checks, "measured", lambda change="", program="": rates.get(change + LOOPS * (program == UPDATES))
    )
    monkeypatch.setattr(speed_checks, "numpys_kernel", lambda: "SkylakeX")
    monkeypatch.setattr(speed_checks, "processor", lambda: {"AuthenticAMD", "avx2", "avx512vl"})
    return rates


def test_the_best_is_named(machine: dict[str, float]) -> None:
    found, cure = speed_checks.look_at_blas()
    assert found.startswith("NumPy's ") and found.endswith(" (SkylakeX): 100 GFLOP/s")
    assert cure == "110 GFLOP/s after: export OPENBLAS_CORETYPE=Haswell"
    machine["MINITRAIN_BLAS=mkl"] = 130.0
    assert speed_checks.look_at_blas()[1] == "130 GFLOP/s after: export MINITRAIN_BLAS=mkl"


def test_a_small_gain_is_not_worth_a_word(machine: dict[str, float]) -> None:
    machine.update({"OPENBLAS_CORETYPE=Haswell": 104.9, "OPENBLAS_CORETYPE=Zen": 104.0})
    assert speed_checks.look_at_blas()[1] == ""


def test_a_kernel_that_would_crash_is_not_tried(machine: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_checks, "numpys_kernel", lambda: "Zen")
    assert speed_checks.changes() == ["MINITRAIN_BLAS=mkl", "OPENBLAS_CORETYPE=Haswell", "OPENBLAS_CORETYPE=SkylakeX"]
    monkeypatch.setattr(speed_checks, "processor", lambda: {"AuthenticAMD", "avx2"})
    assert speed_checks.changes() == ["MINITRAIN_BLAS=mkl", "OPENBLAS_CORETYPE=Haswell"]


def test_mkl_is_suggested_where_it_may_pay(machine: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_checks, "processor", lambda: {"GenuineIntel", "avx2", "avx512vl"})
    monkeypatch.setattr(blas, "find", {}.get)
    machine.update(dict.fromkeys(machine, 100.0))
    assert "pip install 'minitrain[mkl]'" in speed_checks.look_at_blas()[1]


def test_no_result(machine: dict[str, float]) -> None:
    machine.clear()
    assert speed_checks.look_at_blas() == (f"{speed_checks.described()}: no result from a test product", "")


def test_compiled_loops_are_suggested_where_they_pay(
    machine: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "NAME", "numpy")
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: name)
    assert speed_checks.look_at_loops() == ("numpy: Adam updates 200 M weights/s", "")
    machine["MINITRAIN_KERNELS=numba" + LOOPS] = 208.0
    assert speed_checks.look_at_loops()[1] == ""
    machine["MINITRAIN_KERNELS=numba" + LOOPS] = 300.0
    assert speed_checks.look_at_loops()[1] == "300 M weights/s after: export MINITRAIN_KERNELS=numba"
    monkeypatch.setattr(compiled, "NAME", "numba")
    assert speed_checks.look_at_loops() == ("numba: Adam updates 200 M weights/s", "")
    machine.clear()
    assert speed_checks.look_at_loops() == ("numba: no result from a test update", "")


def test_a_measurement() -> None:
    """One real one: a process multiplies, with a library that may be another than this one's."""
    rate = speed_checks.measured("MINITRAIN_BLAS=numpy")
    assert rate is not None and rate > 0
    rate = speed_checks.measured(program=speed_checks.UPDATES)
    assert rate is not None and rate > 0
    assert speed_checks.measured("MINITRAIN_BLAS=atlas") is None
