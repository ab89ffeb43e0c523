"""The time that a reduction adds, against the formula of a ring."""

import math
from pathlib import Path

import pytest

from minitrain.commands.draw.buckets import Buckets
from minitrain.commands.plan_options import PlannedMachine, PlannedModel
from minitrain.errors import UserError
from minitrain.models import GPTConfig, gpt

SMALL = PlannedModel("minitrain", layers=2, heads=2, width=16, context=8, batch=8)
N, ALPHA, BETA = 4, 50e-6, 1 / 2e9  # of the preset's machine


def ring(elements: int, item: int = 4) -> float:
    """Return the seconds of a ring all-reduce: 2 (N - 1) messages of the largest shard."""
    return 2 * (N - 1) * (ALPHA + BETA * item * -(-elements // N))


def test_added_time_is_that_of_the_rings(tmp_path: Path) -> None:
    """In turn with computing, an update takes longer by a ring per bucket, and one that sums the loss (3 float64)."""
    rows = Buckets(tmp_path, SMALL, points=9).drawing().numbers["sizes"]
    parameters = gpt(GPTConfig(68, 8, 2, 2, 16)).parameters()
    first = rows[0]
    assert first["buckets"] == len(parameters), "a bucket of its own for each"
    total = sum(ring(math.prod(p.shape)) for p in parameters) + ring(3, 8)
    assert first["bucketed"] - first["computing"] == pytest.approx(total, rel=1e-9)
    for row in rows:
        assert row["computing"] < row["overlap"] <= row["bucketed"]
        assert row["computing"] == pytest.approx(first["computing"], rel=1e-9)
    counts = [row["buckets"] for row in rows]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]


@pytest.mark.parametrize(
    ("machine", "points", "says"),
    [
        (PlannedMachine(ranks=1), 9, "--ranks is 1"),
        (PlannedMachine(ranks=16), 9, "the batch has 8 sequences"),
        (PlannedMachine(), 1, "--points is 1"),
    ],
)
def test_bad_options(machine: PlannedMachine, points: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        Buckets(tmp_path, SMALL, machine, points).drawing()
