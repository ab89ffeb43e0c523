"""The three programs: their accuracy, the same on any number of ranks, and each runs as a user starts it."""

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest

from lessons.programs import distributed, dynamic_rate, mixed_precision
from minitrain.comm.communicator import Communicator
from minitrain.comm.threads import world_of_one
from minitrain.runtime.mpirun import find_mpirun
from minitrain.train.history import History
from tests.tiers import full

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = find_mpirun()
SEEDS = (1, 2, 3, 4, 5)


@pytest.mark.usefixtures("hangs")  # they begin here, for test_sentences.py: what follows leaves a core idle
@pytest.mark.parametrize(
    ("run", "least"), [(distributed.run, 0.95), full(dynamic_rate.run, 0.93), full(mixed_precision.run, 0.95)]
)
def test_the_digits_are_learned(run: Callable[..., History], least: float) -> None:
    """Check ten epochs on 359 held-out images; the median over seeds of split, weights and order."""
    histories = [run(world_of_one(), epochs=10, seed=seed) for seed in SEEDS]
    assert {len(history.accuracy) for history in histories} == {10}
    assert statistics.median(history.accuracy[-1] for history in histories) >= least


@pytest.mark.ranks(2, full=(1, 3))
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), full("float32", 1e-5)])
def test_the_same_curve_on_any_number_of_ranks(dtype: str, bound: float, world: Communicator) -> None:
    """Summing gradients over ranks only changes the order of additions: rounding, over 450 updates.

    In float64 no mistake can hide; the program runs in float32, whose bound is loose.
    """
    serial = distributed.run(world_of_one(), seed=2, dtype=dtype)
    found = distributed.run(world, seed=2, dtype=dtype)
    for curve, true in zip(astuple(found), astuple(serial), strict=True):
        assert len(curve) == len(true) == 10
        assert all(math.isclose(a, b, rel_tol=bound, abs_tol=0) for a, b in zip(curve, true, strict=True))
    assert found.accuracy == serial.accuracy


@pytest.mark.parametrize("policy", mixed_precision.POLICIES)
def test_each_policy_learns_as_float32_does(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Despite 16-bit rounding, this task converges alike. The scale is constant if nothing overflows."""
    found, true = (mixed_precision.run(world_of_one(), epochs=2, policy=name) for name in (policy, "float32"))
    assert found.loss == pytest.approx(true.loss, rel=0.02)
    assert (found.loss == true.loss) == (policy == "float32")
    scale = 65536 if policy == "mixed_float16" else 1
    assert f"loss scale {scale} at the end; 0 of 90 batches skipped" in capsys.readouterr().out


def test_the_rate_of_an_epoch_is_there_from_its_first_update() -> None:
    rate = dynamic_rate.run(world_of_one(), epochs=4).lr
    assert rate == [0.001, 0.001 / 2, 0.001 / 3, 0.001 / 4]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("mpirun -n 2 python distributed.py", marks=pytest.mark.skipif(not MPIRUN, reason="no mpirun")),
        "python dynamic_rate.py",
        "python mixed_precision.py",
        pytest.param(
            "mpirun -n 2 python mixed_precision.py",
            marks=[pytest.mark.full, pytest.mark.skipif(not MPIRUN, reason="no mpirun")],
        ),
    ],
)
def test_a_program_runs(command: str) -> None:
    """Each program runs from the clone's folder and prints each epoch's result once."""
    *start, script = command.split()
    names = {"python": sys.executable, "mpirun": str(MPIRUN)}
    done = subprocess.run(
        [*(names.get(word, word) for word in start), f"lessons/programs/{script}", "--epochs", "2", "--seed", "3"],
        cwd=ROOT, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line[:9] for line in done.stdout.splitlines() if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
