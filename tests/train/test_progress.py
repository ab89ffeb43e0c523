"""What a run prints, and when."""

import pytest

from minitrain.comm import threads
from minitrain.train import progress
from tests.train.test_trainer import data, learn, small

Capture = pytest.CaptureFixture[str]


def test_one_line_an_epoch_on_rank_0(capsys: Capture) -> None:
    threads.run(2, learn)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [f"epoch {n}/4 " for n in (1, 2, 3, 4)]
    assert all("validation loss" in line and "accuracy" in line and len(line) <= 80 for line in lines)


def test_long_epochs_show_that_they_live(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET", -1.0)
    small(threads.world_of_one()).fit(data(25), 1, data(10))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"epoch 1/1: {n} of 4 batches" for n in (1, 2, 3)]
    assert lines[3:5] == [f"epoch 1/1, {what}: 1 of 2 batches" for what in ("loss", "accuracy")] and len(lines) == 6
