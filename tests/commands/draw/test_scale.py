"""The loss scale of a run, from its log."""

import json
from pathlib import Path

import pytest

from minitrain.cli import main
from minitrain.commands.draw.scale import Scale, scales, text
from minitrain.errors import UserError
from tests.commands.draw.test_loss import ROWS, TINY, log


def test_scale_and_skips_are_those_of_the_log(tmp_path: Path) -> None:
    rows = [row | {"scale": scale} for row, scale in zip(ROWS[:4], (8.0, 8.0, 4.0, 4.0), strict=True)]
    numbers = scales(log(tmp_path / "run", [*rows, ROWS[4]]))
    assert numbers["scale"] == [8.0, 8.0, 4.0, 4.0] and numbers["skipped"] == [1]
    assert "skipped: 1 of 4 batches\ntheir numbers: 1" in text(numbers)


def test_a_real_run_skips_what_the_log_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scale of 2^30 overflows in fp16 at once, and halves until it does not."""
    (tmp_path / "text.txt").write_text("to be or not to be " * 20, "utf-8")
    more = ("--text", str(tmp_path / "text.txt"), "--steps", "3", "--precision", "fp16", "--loss-scale", "1073741824")
    assert main(["train", *TINY, *more, "--save-every", "0", "--out", str(tmp_path / "run")]) == 0
    skipped = capsys.readouterr().out.count("skipped: gradients overflowed")
    numbers = scales(tmp_path / "run")
    assert 0 < skipped == len(numbers["skipped"])
    for number in numbers["skipped"]:
        assert numbers["scale"][number + 1] == numbers["scale"][number] / 2


def test_a_run_without_skips(tmp_path: Path) -> None:
    made = Scale(tmp_path, log(tmp_path / "run", [ROWS[0] | {"scale": 8.0}])).drawing()
    assert "skipped: 0 of 1 batches" in made.text and json.loads(json.dumps(made.numbers)) == made.numbers


def test_a_run_without_a_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no loss scale; train with one: .*--precision fp16"):
        Scale(tmp_path, log(tmp_path / "run", ROWS)).drawing()
