"""What the doctor says about the BLAS, with rates given instead of measured."""

import pytest

from minitrain import blas
from minitrain.runtime import blas_checks

RATES = {"": 100.0, "MINITRAIN_BLAS=mkl": 104.0, "OPENBLAS_CORETYPE=Haswell": 110.0, "OPENBLAS_CORETYPE=Zen": 106.0}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """An AMD processor with MKL and NumPy's OpenBLAS, whose kernel is SkylakeX."""
    rates = dict(RATES)

    monkeypatch.setattr(blas, "NAME", "numpy")
    monkeypatch.setattr(blas, "find", {"mkl": "there"}.get)
    monkeypatch.setattr(blas_checks, "measured", lambda change="": rates.get(change))
    monkeypatch.setattr(blas_checks, "numpys_kernel", lambda: "SkylakeX")
    monkeypatch.setattr(blas_checks, "processor", lambda: {"AuthenticAMD", "avx2", "avx512vl"})
    return rates


def test_the_best_is_named(machine: dict[str, float]) -> None:
    found, cure = blas_checks.look()
    assert found.startswith("NumPy's ") and found.endswith(" (SkylakeX): 100 GFLOP/s")
    assert cure == "110 GFLOP/s after: export OPENBLAS_CORETYPE=Haswell"
    machine["MINITRAIN_BLAS=mkl"] = 130.0
    assert blas_checks.look()[1] == "130 GFLOP/s after: export MINITRAIN_BLAS=mkl"


def test_a_small_gain_is_not_worth_a_word(machine: dict[str, float]) -> None:
    machine.update({"OPENBLAS_CORETYPE=Haswell": 104.9, "OPENBLAS_CORETYPE=Zen": 104.0})
    assert blas_checks.look()[1] == ""


def test_a_kernel_that_would_crash_is_not_tried(machine: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas_checks, "numpys_kernel", lambda: "Zen")
    assert blas_checks.changes() == ["MINITRAIN_BLAS=mkl", "OPENBLAS_CORETYPE=Haswell", "OPENBLAS_CORETYPE=SkylakeX"]
    monkeypatch.setattr(blas_checks, "processor", lambda: {"AuthenticAMD", "avx2"})
    assert blas_checks.changes() == ["MINITRAIN_BLAS=mkl", "OPENBLAS_CORETYPE=Haswell"]


def test_mkl_is_suggested_where_it_may_pay(machine: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas_checks, "processor", lambda: {"GenuineIntel", "avx2", "avx512vl"})
    monkeypatch.setattr(blas, "find", {}.get)
    machine.update(dict.fromkeys(machine, 100.0))
    assert "pip install 'minitrain[mkl]'" in blas_checks.look()[1]


def test_no_result(machine: dict[str, float]) -> None:
    machine.clear()
    assert blas_checks.look() == (f"{blas_checks.described()}: no result from a test product", "")


def test_a_measurement() -> None:
    """One real one: a process multiplies, with a library that may be another than this one's."""
    rate = blas_checks.measured("MINITRAIN_BLAS=numpy")
    assert rate is not None and rate > 0
    assert blas_checks.measured("MINITRAIN_BLAS=atlas") is None
