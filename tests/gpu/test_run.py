"""`make gpu` on the strict stand-in: it says what is missing, every part runs, and whatever ends leaves its results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minitrain.comm.threads import world_of_one
from tests.benchmarks import timing
from tests.benchmarks.ours import Ours
from tests.benchmarks.sizes import SIZES, ValuesOf
from tests.gpu import models, run, speed
from tests.gpu.rows import FAILED, LEFT_OUT, MEASURED, OK, Report, line, parsed, row, without_value
from tests.gpu.test_bare import refusing
from tests.processes import processes

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "gpu" / "strict_cupy"
TINY = SIZES["tiny"]


def command(folder: Path, *path: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start `python -m tests.gpu.run` in a folder, for its build/gpu.json, with these folders before ours."""
    given = {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "SIZES": "small", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.run"], cwd=folder, env={**os.environ, **given}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]", folder: Path) -> tuple[str, dict[str, Any]]:
    """Return what the command has printed, and its file."""
    output, _ = process.communicate(timeout=120)
    return output, json.loads((folder / "build" / "gpu.json").read_text())


def of_state(written: Mapping[str, Any], state: str) -> list[str]:
    return [row["name"] for rows in written["rows"].values() for row in rows if row["state"] == state]


# What is missing ------------------------------------------------------------------------------------------------------


def test_without_cupy(tmp_path: Path) -> None:
    """It says so first, with what to install; every part is left out for that reason."""
    process = command(tmp_path, refusing(tmp_path, "cupy torch tyro"))
    output, written = ended(process, tmp_path)
    assert process.returncode == 2, output
    assert output.startswith("missing: ") and "missing: cupy         everything" in output
    assert "pip install cupy-cuda12x" in output
    assert set(written["missing"]) == {"cupy", "torch", "tyro"}
    assert {row["why"] for rows in written["rows"].values() for row in rows} == {"no CuPy"}
    assert len(written["rows"]) == 7 and len(of_state(written, LEFT_OUT)) == 7


def test_without_a_device(tmp_path: Path) -> None:
    process = command(tmp_path, STAND_IN, STRICT_CUPY_DEVICES="0")
    output, written = ended(process, tmp_path)
    assert process.returncode == 2, output
    assert "no CUDA device" in output and "cudaErrorNoDevice" in output
    assert len(of_state(written, LEFT_OUT)) == 7


def test_wrong_sizes(tmp_path: Path) -> None:
    process = command(tmp_path, SIZES="tiny")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2 and "SIZES is 'tiny'; allowed: full, small" in output


# Parts that go wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "build" / "gpu.json")


def test_a_part_that_fails_leaves_the_others(report: Report, capsys: pytest.CaptureFixture) -> None:
    """One crashes, one never ends, one gives nothing: each is a row, at once in the file."""
    parts = [
        run.Part("crashes", "json.tool", ("/nowhere",), 20),
        run.Part("never ends", "http.server", ("0", "--bind", "127.0.0.1"), 0.5),
        run.Part("gives nothing", "json.decoder", (), 20),
        run.Part("cannot run", "json.decoder", (), 20, why="no such thing"),
    ]
    begun = time.monotonic()
    run.run(parts[0], 20, report)
    run.run(parts[1], 0.5, report)
    run.run_all(parts[2:], report)
    assert time.monotonic() - begun < 10
    written = json.loads(report.path.read_text())
    assert written["rows"] == report.rows
    (crashed,), (late,), (nothing,), (left,) = report.rows.values()
    assert crashed["state"] == late["state"] == nothing["state"] == FAILED
    assert crashed["why"].startswith("ended with status 2: ") and "/nowhere" in crashed["why"]
    assert late["why"] == "stopped after 0 s" and nothing["why"] == "gave no result"
    assert left["state"] == LEFT_OUT and left["why"] == "no such thing"
    assert "1 left out" in report.total() and "FAILED: gave no result" in capsys.readouterr().out


def test_the_limits_add_up_to_four_minutes(report: Report) -> None:
    report.machine = {"mpirun": "mpirun"}
    for sizes in run.SIZES:
        parts = list(run.parts(report, sizes, ""))
        assert run.PROBE + sum(part.seconds for part in parts) <= 240
        assert [part.name.startswith("PyTorch") for part in parts] == sorted(
            part.name.startswith("PyTorch") for part in parts
        )


def test_time_that_is_left_is_given_on(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(run, "run", lambda part, limit, report: given.append(limit))
    run.run_all([run.Part(str(n), "", (), 10) for n in range(3)], report)
    assert given == pytest.approx([10, 20, 30], abs=1)


# Rows -----------------------------------------------------------------------------------------------------------------


def test_rows(report: Report, capsys: pytest.CaptureFixture) -> None:
    assert [row("", value, bound=1.0)["state"] for value in (1.0, 1.1, float("nan"))] == [OK, FAILED, FAILED]
    assert row("", 3.0)["state"] == MEASURED
    infinite = row("", float("inf"), why="gradients head")
    assert (infinite["state"], infinite["value"], infinite["why"]) == (FAILED, None, "the value is inf; gradients head")
    report.add("step of 1M", row("step", 12.3, "ms"))
    report.add("PyTorch, step of 1M", row("step", 8.2, "ms"))
    report.add("PyTorch, step of 1M", without_value("memory", LEFT_OUT, "full"))
    assert "12.3 ms        PyTorch 8.2, ratio 1.50" in report.table()
    report.seconds["step of 1M"] = 3.2
    assert report.table().startswith("step of 1M, 3 s\n")
    assert "memory" in report.table() and "left out: full" in report.table()
    assert "at most 1.0e-10  FAILED" in line(row("x", 1e-3, bound=1e-10))
    assert capsys.readouterr().out.count("\n") == 3
    assert parsed(json.dumps(row("x", 1.0))) == row("x", 1.0)
    assert parsed("Traceback") is None and parsed("3") is None and parsed("{}") is None


def test_a_wrong_gradient_is_a_failure(capsys: pytest.CaptureFixture) -> None:
    """A hundredth of a gradient is lost: more than float32 and float16 may differ by rounding."""
    for kind in ("float64", "float32", "float16"):
        exact, numpy = (models.compute(models.SIZES["small"], each) for each in ("float64", kind))
        models.report(kind, numpy, numpy, exact)
        wrong = {name: x * (0.99 if name == "GPT gradients head.norm.weight" else 1) for name, x in numpy.items()}
        models.report(kind, wrong, numpy, exact)
    found = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert len(found) == 24
    assert [row["name"] for row in found if row["state"] == FAILED] == [
        f"GPT, {kind}: gradients" for kind in ("float64", "float32", "float16")
    ]


# Steps ----------------------------------------------------------------------------------------------------------------


def test_peak_memory() -> None:
    """The most that is taken at a time, with what is there before."""

    class Hook:
        def __enter__(self) -> "Hook":
            side.hook = self
            return self

        def __exit__(self, *_: object) -> None: ...

    def forward() -> None:
        for event, size in (("malloc", 8), ("malloc", 4), ("free", 8), ("malloc", 6), ("free", 6)):
            getattr(side.hook, f"{event}_postprocess")(mem_size=size * 10**6, mem_ptr=1, pmem_id=2, device_id=0, size=1)

    side: Any = SimpleNamespace(forward=forward, backward=timing.nothing, update=timing.nothing)
    pool = SimpleNamespace(used_bytes=lambda: 5 * 10**6)
    cupy = SimpleNamespace(cuda=SimpleNamespace(MemoryHook=Hook), get_default_memory_pool=lambda: pool)
    assert speed.our_peak(cupy, side) == 17


def test_values_for_both_sides() -> None:
    """Every parameter gets values of its shape; matrices have no equal rows."""
    ours = Ours(TINY, world_of_one(), values=ValuesOf(TINY))
    weights = ours.weights()
    for path, value in weights.items():
        np.testing.assert_array_equal(value.reshape(-1), TINY.values(path).reshape(-1))
    assert not np.array_equal(weights["blocks.0.attn.proj.weight"], weights["blocks.1.attn.proj.weight"])
    wide = SIZES["20M"].values("blocks.0.mlp.up.weight")
    assert len(np.unique(wide[:, 0])) == len(wide) and abs(float(wide.std()) - 0.02) < 1e-3


@pytest.mark.full
def test_pytorch_trains_the_same_model(capsys: pytest.CaptureFixture) -> None:
    """Its first losses are ours, in float32 and in float16; here on the CPU."""
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    written = {}
    for dtype in speed.DTYPES:
        side = Ours(TINY, world_of_one(), half=dtype == "float16", values=ValuesOf(TINY))
        for number in (1, 2):
            timing.step(side)
            written[f"tiny {dtype} loss {number}"] = side.loss()
        speed.their_step(TINY, dtype, 1, ValuesOf(TINY), written, device="cpu")
    found = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [row["state"] for row in found if "PyTorch's" in row["name"]] == [OK] * 4
    assert any(row["name"] == "tiny float16 optimizer" and row["value"] > 0 for row in found)


# The whole command ----------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("bare", [False, True], ids=["with everything", "bare"])
def test_every_part_runs(bare: bool, tmp_path: Path) -> None:
    process = command(tmp_path, *([refusing(tmp_path)] if bare else []), STAND_IN)
    output, written = ended(process, tmp_path)
    assert process.returncode == 0, output
    assert written["finished"] and of_state(written, FAILED) == []
    assert len(of_state(written, OK)) == 38 and written["machine"]["stand_in"]
    assert "This is the strict stand-in" in output and output.count("pipeline, 4 ranks") == 2
    if bare:
        assert written["missing"].keys() >= {"mpi4py", "torch", "tyro"}
        assert "pipeline, 4 ranks as threads" in output
        assert "left out: PyTorch is not installed" in output


@pytest.mark.full
def test_a_run_that_is_ended_gives_a_table(tmp_path: Path) -> None:
    """After SIGTERM, no process is left, and the file says what has not run."""
    mark = f"of {tmp_path}"
    process = command(tmp_path, STAND_IN, MARK=mark)
    assert process.stdout is not None
    while "GPT, float64: losses" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    output, written = ended(process, tmp_path)
    assert time.monotonic() - begun < 10 and process.returncode == 1
    assert not written["finished"] and "GPT, float64: losses" in of_state(written, OK)
    assert "operations" in of_state(written, LEFT_OUT) and processes("environ", mark) == []
    assert "the run was ended" in output and "and not all parts have run" in output
