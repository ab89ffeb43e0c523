"""The drawn strategies against those that plan writes to a file."""

import json
from pathlib import Path

import pytest

from minitrain.cli import main
from minitrain.commands.draw.landscape import Landscape, front
from minitrain.commands.plan_options import PlannedMachine, PlannedModel, PlannedStrategy
from minitrain.errors import UserError

SMALL = PlannedModel("minitrain", layers=2, heads=2, width=16, context=8, batch=4)
OPTIONS = ["--layers=2", "--heads=2", "--width=16", "--context=8", "--batch=4", "--ranks=2"]


@pytest.mark.parametrize("memory_gb", [0.00012, 1.0])
def test_points_are_what_plan_finds(memory_gb: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that fit are plan's, with the same times; the others, which plan only counts, need more memory."""
    machine = PlannedMachine(ranks=2, memory_gb=memory_gb)
    numbers = Landscape(tmp_path, SMALL, machine).drawing().numbers
    assert main(["plan", *OPTIONS, "--memory-gb", str(memory_gb), "--out", str(tmp_path / "plan.json")]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text("utf-8"))["combinations"]
    fits = [row for row in plan if row["status"] == "fits"]
    drawn = [point for point in numbers["points"] if point["fits"]]
    assert sorted((point["seconds"], point["bytes"]) for point in drawn) == sorted(
        (row["seconds"], row["bytes_total"]) for row in fits
    )
    assert (numbers["chosen"]["seconds"], numbers["chosen"]["bytes"]) == (fits[0]["seconds"], fits[0]["bytes_total"])
    larger = [point for point in numbers["points"] if not point["fits"]]
    assert len(larger) == sum(row["status"] == "too large" for row in plan) and bool(larger) == (memory_gb < 1)
    assert all(point["bytes"] > numbers["limit"] for point in larger)


def test_the_front() -> None:
    rows = [{"seconds": s, "bytes": b} for s, b in ((1, 9), (2, 5), (2, 4), (3, 4), (3, 6), (4, 1), (5, 1))]
    beaten = lambda row: any(
        other is not row
        and other["seconds"] <= row["seconds"]
        and other["bytes"] <= row["bytes"]
        and (other["seconds"], other["bytes"]) != (row["seconds"], row["bytes"])
        for other in rows
    )
    assert front(rows) == [row for row in rows if not beaten(row)] == [rows[0], rows[2], rows[5]]


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no strategy fits; python -m minitrain plan"):
        Landscape(tmp_path, SMALL, PlannedMachine(ranks=2), PlannedStrategy(zero=2, pp=2)).drawing()
