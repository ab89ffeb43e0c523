"""The parts of the benchmark on a tiny model: they run, agree, and fill the rows. Speed is not tested."""

import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from types import CodeType, SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from minitrain.comm.threads import world_of_one
from minitrain.fused import linear
from minitrain.gelu import gelu_and_slope
from minitrain.runtime.mpirun import find_mpirun
from tests.benchmarks import all_reduce, bench, ddp, loading, memory, profile, sampling, saving, step, timing, zero
from tests.benchmarks.jobs import Failed, mpirun, python, result
from tests.benchmarks.ours import Ours
from tests.benchmarks.sizes import SIZES, Row, Size, row

TINY = SIZES["tiny"]
needs_mpirun = pytest.mark.skipif(find_mpirun() is None, reason="there is no mpirun")


def check(rows: list[Row]) -> None:
    """Check every row's fields, and that the table has 80 columns and truncates no name."""
    for r in rows:
        assert list(r) == ["name", "ours", "theirs", "ratio", "goal", "unit"]
        assert r["ours"] > 0 and r["theirs"] > 0 and r["ratio"] == r["ours"] / r["theirs"]
        assert r["goal"] is None or r["goal"] >= 0.9
        assert r["unit"] in ("ms", "MB")
    text = io.StringIO()
    bench.show(rows, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert len(lines) == 1 + len(rows) and max(map(len, lines)) <= 80
    assert all(line.startswith(r["name"]) for line, r in zip(lines[1:], rows, strict=True))


@pytest.mark.full
def test_step_beside_torch() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    found = step.measure(TINY, rounds=2)  # raises unless the two agree, before and after an update
    rows = step.as_rows(TINY, found)
    assert [r["name"] for r in rows[:2]] == ["tiny step / PyTorch", "tiny forward / PyTorch"] and len(rows) == 7
    check(rows)
    assert memory.measure("theirs", TINY) >= 0


def test_step_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "find_spec", lambda name: None)
    rows = step.as_rows(TINY, step.measure(TINY, rounds=1))
    names = ["tiny step / floor", "tiny optimizer / memory limit", "tiny LAMB / our Adam"]
    assert [r["name"] for r in rows] == names
    check(rows)
    assert memory.measure("ours", TINY) >= 0
    assert ddp.measure(Ours(TINY, world_of_one()), steps=1) > 0


def test_profile() -> None:
    """What a step does is found under the names of the operations, nothing twice."""
    found = profile.measure(TINY, steps=2)
    named = sum(found.values()) - found[profile.STEP]
    assert 0.3 * found[profile.STEP] < named < found[profile.STEP]
    rows = profile.as_rows(TINY, found)
    assert len(rows) == 1 + profile.SHOWN and sum(r["ratio"] for r in rows) == pytest.approx(1)
    check(rows)
    assert profile.operation(step.measure.__code__) == profile.operation("<built-in method numpy.zeros>") == ""
    assert profile.operation(gelu_and_slope.__code__) == "gelu.gelu_and_slope"


def test_what_a_function_calls_outside_counts_as_its_own() -> None:
    """The operation's own second, NumPy's two and the derivative's three; not the four of another operation."""
    function: CodeType = inspect.unwrap(linear).__code__
    own, derivative = gelu_and_slope.__code__, next(code for code in function.co_consts if inspect.iscode(code))
    calls = [SimpleNamespace(code="<method 'astype'>", inlinetime=2.0), SimpleNamespace(code=own, inlinetime=4.0)]
    entries = [
        SimpleNamespace(code=function, inlinetime=1.0, calls=calls),
        SimpleNamespace(code=derivative, inlinetime=3.0, calls=None),
        SimpleNamespace(code="<method 'astype'>", inlinetime=2.0, calls=None),
    ]
    found = list(profile.own_times(entries))
    assert [seconds for _, seconds in found] == [1.0, 2.0, 3.0]
    assert found[:2] == [("fused.linear", 1.0), ("fused.linear", 2.0)]
    if sys.version_info >= (3, 11):
        assert found[2] == ("fused.linear", 3.0)


def test_different_models_are_not_compared() -> None:
    timing.agree(1.0)
    timing.agree(1.0, 1.00005)
    for other in (1.001, float("nan")):
        with pytest.raises(RuntimeError, match="not the same model"):
            timing.agree(1.0, other)


def test_flops() -> None:
    """6 per weight and token, and 12 T D per token and layer in attention; the rest of a step is small."""
    size = Size("", width=64, heads=4, layers=2, T=16, B=4, V=32)
    weights = size.layers * 12 * size.width**2 + size.V * size.width
    expected = 6 * size.B * size.T * weights + 12 * size.T * size.width * size.B * size.T * size.layers
    assert 1 <= step.flops(Ours(size, world_of_one())) / expected <= 1.05


def test_medians_take_turns() -> None:
    calls: list[str] = []
    numbers = iter([5.0, 0.0, 1.0, 0.0, 2.0, 0.0])

    def measure(name: str) -> list[float]:
        calls.append(name)
        return [next(numbers), 7.0]

    assert timing.medians({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3) == {"a": [2, 7], "b": [0, 7]}
    assert calls == ["a", "b", "a", "b", "a", "b"]


def test_everyone_has_the_same_data() -> None:
    assert TINY.ids(2).shape == (2 * TINY.B, TINY.T + 1)
    np.testing.assert_array_equal(TINY.ids(2), TINY.ids(2))
    assert TINY.ids().max() < TINY.V


@needs_mpirun
def test_jobs_under_mpirun(tmp_path: Path) -> None:
    assert result(mpirun(2, "ddp", "ours", "tiny", 2, tmp_path / "weights.npz"))[0] > 0
    found = result(mpirun(2, "zero", "tiny", 1))
    assert [r["goal"] for r in zero.as_rows(TINY, found)] == [1.05, 1.05, 1.3]
    check(zero.as_rows(TINY, found))
    saves = result(mpirun(2, "saving", "tiny", 2))
    check(saving.as_rows(TINY, saves))
    found = result(mpirun(2, "all_reduce", "mpi", 1, 1, 2048))
    rows = all_reduce.as_rows([1, 2048], [found, {way: [2 * t for t in times] for way, times in found.items()}])
    assert [r["name"] for r in rows[1:3]] == ["all_reduce 1 KB, ring / mpi4py", "all_reduce 2 MB / mpi4py"]
    assert rows[0]["ours"] == 1.5e3 * found["ours"][0]
    check(rows)


def test_tokens() -> None:
    check([sampling.as_row(TINY, 8, sampling.measure(TINY, T=8, rounds=2))])


@needs_mpirun
@pytest.mark.full
def test_a_load(tmp_path: Path) -> None:
    loading.write(tmp_path, layers=1, width=64)
    found = result(mpirun(2, "loading", tmp_path))
    assert [share for _, share, _ in found] == [pytest.approx(4 * 3_332_032 / 2, rel=0.01)] * 2


def test_a_job_that_fails_says_so() -> None:
    with pytest.raises(Failed, match="status"):
        result(python("memory", "nobody"))


def test_their_processes_have_nothing_of_ours() -> None:
    """Importing minitrain would change the allocator."""
    code = "import sys; from tests.benchmarks import all_reduce, ddp, memory; sys.exit('minitrain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_parts(quick: bool) -> None:
    """Without PyTorch, the parts that need it are skipped."""
    names = [name for name, _ in bench.parts(quick, torch=True)]
    sizes = ("20M", "3.4M", "0.5M")
    assert names[:6] == [f"{part} of {size}" for size in sizes for part in ("step", "profile")]
    assert names[-1] == "all_reduce"
    without = [name for name, _ in bench.parts(quick, torch=False)]
    assert set(names) - set(without) == {name for name in names if "memory" in name or "2 ranks" in name}


def test_file_and_missing_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A failed part is reported, the others are still shown, and the status is 1."""

    def fail() -> list[Row]:
        raise Failed("it was tired")

    good = row("some name", 3.0, 2.0, "ms", 1.12)
    monkeypatch.setattr(bench, "OUT", tmp_path / "build" / "bench.json")
    monkeypatch.setattr(bench, "parts", lambda quick, torch: [("good", lambda: [good]), ("bad", fail)])
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    assert bench.main() == 1
    written = json.loads(bench.OUT.read_text())
    assert written == [good]
    check(written)
    printed = capsys.readouterr().out
    assert "bad: NO RESULT: it was tired" in printed and "1.50  1.12" in printed
