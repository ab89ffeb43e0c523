"""simulate prints tables that fit a terminal, and writes all of their numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from minitrain.cli import main
from minitrain.planner.failures import Job, daly, young

Capture = pytest.CaptureFixture[str]
RING = "ring --ranks 4 16 32 --mb 1 --late 0 5 --slow 3 2"
UPDATE = "update minitrain-3m --pp 2 --tp 2 --batch 16 --accumulate 4 --slow 1 2"
FAILURES = "failures --ranks 1024 16384 --days 5 --trials 50"
SCALING = f"{UPDATE} --ranks 4 8 128"
COMMANDS = (RING, f"{UPDATE} --dp 4", SCALING, FAILURES)


def said(capsys: Capture, arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["simulate", *arguments.split()]) == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


@pytest.mark.parametrize("arguments", COMMANDS)
def test_tables_fit_a_terminal(arguments: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # nothing is cut off
    text = said(capsys, arguments)
    assert max(map(len, text.splitlines())) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in text


def written(capsys: Capture, arguments: str, path: Path) -> tuple[str, dict[str, Any]]:
    text = said(capsys, f"{arguments} --out {path}")
    return text, json.loads(path.read_text())


def test_a_ring_with_late_and_slow_ranks(capsys: Capture, tmp_path: Path) -> None:
    text, numbers = written(capsys, RING, tmp_path / "ring.json")
    assert [row["ranks"] for row in numbers["rows"]] == [4, 16, 32]
    for row in numbers["rows"]:
        assert row["flat"] + 0.004 < row["flat_delayed"] and row["hierarchical"] + 0.004 < row["hierarchical_delayed"]
    assert "rank 0 starts 5 ms late" in text and len(text.split("flat then")[1].splitlines()) >= 4
    assert "then" not in said(capsys, "ring --ranks 4")


def test_an_update_and_who_waits(capsys: Capture, tmp_path: Path) -> None:
    text, numbers = written(capsys, f"{UPDATE} --dp 4", tmp_path / "update.json")
    (row,) = numbers["weak"]
    assert not numbers["strong"] and (row["ranks"], row["dp"]) == (16, 4)
    assert row["slowed"]["time"] > row["alone"]["time"] > row["alone"]["busy"] > 0
    assert "other replicas" in text and f"{100 * row['cost']:.1f}%" in text
    assert "cost nothing" in said(capsys, f"{UPDATE} --dp 4".replace("--slow 1 2", "--slow 1 1"))


def test_weak_and_strong_scaling(capsys: Capture, tmp_path: Path) -> None:
    text, numbers = written(capsys, SCALING, tmp_path / "update.json")
    assert [(row["ranks"], row["batch"]) for row in numbers["weak"]] == [(4, 16), (8, 32), (128, 512)]
    assert [(row["ranks"], row["batch"]) for row in numbers["strong"]] == [(4, 16), (8, 16)]
    assert "no sequence of 16 each" in text


def test_failures_mark_the_intervals_of_young_and_daly(capsys: Capture, tmp_path: Path) -> None:
    text, numbers = written(capsys, FAILURES, tmp_path / "failures.json")
    assert text.count(" Young ") >= 2 and text.count(" Daly ") >= 2
    for job in numbers["jobs"]:
        named = {row["name"]: row["interval"] for row in job["rows"] if row["name"]}
        assert named == {"Young": young(Job(**job["job"])), "Daly": daly(Job(**job["job"]))}
        assert all(abs(row["mean"] - row["expected"]) < 5 * row["error"] for row in job["rows"])


def test_intervals_at_which_a_job_hardly_ever_ends(capsys: Capture, tmp_path: Path) -> None:
    arguments = "failures --ranks 16384 --mtbf-hours 1000 --days 20 --trials 20"
    text, numbers = written(capsys, arguments, tmp_path / "failures.json")
    assert numbers["jobs"][0]["rows"][-1]["mean"] is None
    assert "43.3 min        -          -  -" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ring --ranks 12", "give a multiple of 8"),
        ("ring --ranks 4 --late 4 1", "at most 3"),
        ("ring --ranks 0", "at least 1"),
        ("ring --mb 0", "above 0"),
        ("ring --ranks 4 --slow 1 2 1 3", "give each rank once"),
        ("update --ranks 100", "give --ranks 64"),
        ("update --dp 2 --ranks 64", "give --ranks 128"),
        ("update nothing", "allowed"),
        ("update --batch 16", "needs a batch of at least 768"),
        ("update --slow 1024 2", "at most 1023"),
        ("update --grad-dtype fp16", "plan with full"),
        ("failures --checkpoint-s 0", "above 0"),
        ("failures --trials 1", "at least 2"),
        ("ring --ranks 4 --out rows.csv", "ends in .json"),
        ("ring --ranks 4 --out nowhere/rows.json", "give another file"),
    ],
)
def test_mistakes_are_explained(arguments: str, message: str, capsys: Capture) -> None:
    assert message in said(capsys, arguments, status=2)


@pytest.mark.full
def test_progress_of_what_takes_long(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitrain.train.progress.QUIET", -1.0)
    assert "ring: 1 of 3 numbers of ranks" in said(capsys, RING)
