"""Loss curves: read from logs that are written here, and named by what runs differ in."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.commands.draw.loss import Loss, curves
from minitrain.commands.draw.run_log import labels, rows_of
from minitrain.errors import UserError

TINY = ("--layers", "1", "--heads", "1", "--width", "4", "--context", "4", "--batch", "2", "--sample", "0")


def log(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a run's log and return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


ROWS: list[dict[str, Any]] = [
    {"step": 1, "loss": 4.0, "lr": 0.1, "norm": 1.0},
    {"step": 1, "loss": None, "lr": 0.1, "norm": None, "skipped": True},
    {"step": 2, "loss": 2.0, "lr": 0.1, "norm": 1.0, "val_loss": 2.5},
    {"step": 3, "loss": 3.0, "lr": 0.1, "norm": 1.0},
    {"step": 3, "final_val_loss": 2.25},
]


def test_the_curves_are_those_of_the_log(tmp_path: Path) -> None:
    """The average is the weighted mean of all losses so far, the last one with weight 1, the one before with 0.5."""
    (run,) = curves([log(tmp_path / "one", ROWS)], 0.5)["runs"]
    assert run["step"] == [1, 2, 3] and run["loss"] == [4.0, 2.0, 3.0]
    assert run["validation"] == [[2, 2.5]] and run["final_validation"] == 2.25
    means = [np.average(run["loss"][: n + 1], weights=0.5 ** np.arange(n, -1, -1)) for n in range(3)]
    np.testing.assert_allclose(run["smoothed"], means, rtol=1e-15)


def test_runs_are_named_by_what_they_differ_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs with options of their own, and one that has left neither a model nor a checkpoint."""
    (tmp_path / "text.txt").write_text("to be or not to be " * 20, "utf-8")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, lr in zip(folders, ("0.01", "0.02"), strict=True):
        more = ("--text", str(tmp_path / "text.txt"), "--steps", "3", "--lr", lr, "--save-every", "0")
        assert main(["train", *TINY, *more, "--out", str(folder)]) == 0
    assert labels(folders) == ["lr 0.01", "lr 0.02"]
    assert labels([folders[0], folders[0]]) == [str(folders[0])] * 2, "they differ in nothing"
    bare = log(tmp_path / "bare", ROWS)
    assert labels([*folders, bare]) == [*map(str, folders), str(bare)]
    capsys.readouterr()
    assert main(["draw", "loss", *map(str, folders), "--to", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "loss.json").read_text("utf-8"))["runs"]
    assert "lr 0.01" in printed and "lr 0.02" in printed
    for run, folder in zip(found, folders, strict=True):
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
        assert run["loss"] == [row["loss"] for row in rows[:3]]
        assert f"{rows[-1]['final_val_loss']:.4f}" in printed and math.isfinite(run["smoothed"][-1])


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (None, "has no log.jsonl; give the folder of a run"),
        ("", "has no updates yet"),
        ('{"step": 1, "loss"', "it is no log of a run, or damaged"),
        ("[1, 2]\n", "is no log of a run"),
        ('{"step": 3, "final_val_loss": 2.0}\n', "has no updates yet"),
    ],
)
def test_a_log_that_cannot_be_read(written: str | None, says: str, tmp_path: Path) -> None:
    if written is not None:
        (tmp_path / "log.jsonl").write_text(written, "utf-8")
    with pytest.raises(UserError, match=says):
        rows_of(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        Loss(tmp_path, (tmp_path / "nowhere",)).drawing()


def test_only_skipped_batches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"every batch of .* was skipped"):
        Loss(tmp_path, (log(tmp_path / "run", [ROWS[1]]),)).drawing()


@pytest.mark.parametrize("memory", [-0.1, 1.0, math.nan])
def test_a_memory_that_is_out_of_range(memory: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--smooth is"):
        Loss(tmp_path, (log(tmp_path / "run", ROWS),), smooth=memory).drawing()
