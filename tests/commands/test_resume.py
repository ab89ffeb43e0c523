"""A run that is resumed ends like one without interruption, says what differs, and refuses what does not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.threads import world_of_one
from minitrain.commands.run_checkpoints import RunCheckpoints, resumed
from minitrain.commands.train import TextTrainer, Train
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.train.checkpoint_index import read_index
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.history import Update
from minitrain.train.trainer import Trainer

Capture = pytest.CaptureFixture[str]
STEPS, LOST = 6, 5  # updates of a run, and of one that is interrupted; the last checkpoint before is step-4
TEXT = "a cat sat on a mat and ate. " * 60
OPTIONS = "--layers 1 --width 16 --heads 2 --context 16 --batch 7 --warmup 2 --dropout 0.1 --val-every 3 --save-every 2"
TINY = [*OPTIONS.split(), "--text", "text.txt"]
POWER = "the power is lost"


def run(*arguments: str) -> int:
    """Run the command in this process. Return its status."""
    try:
        return main(["train", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


class Runs:
    """Runs in an empty working directory."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        Path("text.txt").write_text(TEXT)

    def whole(self, out: str, *more: str, steps: int = STEPS) -> int:
        """Run without interruption."""
        return run(*TINY, "--sample", "0", "--steps", str(steps), "--out", out, *more)

    def interrupted(self, out: str, *more: str, at: int = LOST) -> None:
        """Run up to an update, and end as if the process were killed: no more is saved."""
        with self.patch.context() as patch:
            patch.setattr(RunCheckpoints, "after", ends_at(at))
            assert self.whole(out, *more) == 2


def ends_at(update: int) -> Callable[[RunCheckpoints, Update, bool], None]:
    """Return a method for RunCheckpoints that ends the run after an update, which it does not save."""
    after = RunCheckpoints.after

    def ends(self: RunCheckpoints, made: Update, last: bool) -> None:
        if self.text.trainer.updates == update:
            raise UserError(POWER)
        after(self, made, last)

    return ends


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(monkeypatch)


def rows(out: str) -> list[dict[str, Any]]:
    """Return the log of a run."""
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def steps(out: str) -> list[str]:
    """Return the names of a run's checkpoints."""
    return sorted(path.name for path in (Path(out) / "checkpoints").glob("step-*"))


def same(one: str, other: str) -> bool:
    """Return whether two runs have the same bytes in their logs, their models, and their last checkpoints."""
    last = f"checkpoints/step-{STEPS}/rank-0-of-1.safetensors"
    names = ("log.jsonl", "model.safetensors", last)
    return all((Path(one) / name).read_bytes() == (Path(other) / name).read_bytes() for name in names)


# How it is asked for --------------------------------------------------------------------------------------------------

ASKED = {
    "--resume mine": 4,
    "--resume=mine": 4,
    "--resume mine/": 4,
    "--resume mine/checkpoints": 4,
    "--resume mine/checkpoints/step-4": 4,
    "--resume mine/checkpoints/step-2": 2,
    "--resume --out mine": 4,
    "--out=mine --resume": 4,
    "--resume --out=mine --log-every 3": 4,
    "--resume mine --out mine": 4,
}


@pytest.mark.parametrize("asked", ASKED)
def test_it_ends_like_a_run_without_interruption(asked: str, runs: Runs, capsys: Capture) -> None:
    report = ["--log-every", "3"] if "--log-every" in asked else []
    assert runs.whole("whole", *report) == 0
    runs.interrupted("mine")
    assert len(rows("mine")) == LOST and steps("mine") == ["step-2", "step-4"]
    capsys.readouterr()
    assert run(*asked.split()) == 0
    said = capsys.readouterr().out
    assert f"continuing mine/checkpoints/step-{ASKED[asked]}: {ASKED[asked]} of {STEPS} updates are made\n" in said
    assert ("from here on" in said) == bool(report)
    if ASKED[asked] == 2:  # the name step-4 is taken
        assert steps("mine") == ["step-4-1", "step-6"]
    assert same("whole", "mine")


def test_without_a_folder_it_is_the_default_one(runs: Runs, capsys: Capture) -> None:
    assert runs.whole("whole") == 0
    runs.interrupted("build/run")
    assert run("--resume") == 0
    assert "continuing build/run/checkpoints/step-4: 4 of 6 updates are made\n" in capsys.readouterr().out
    assert same("whole", "build/run") and not Path("build/run.1").exists()


def test_into_another_folder(runs: Runs) -> None:
    """The first run stays as it is; the second one's log begins where it begins."""
    assert runs.whole("whole") == 0
    runs.interrupted("mine")
    before = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file() and path.name != ".lock"}
    assert run("--resume", "mine", "--out", "other") == 0
    assert all(path.read_bytes() == data for path, data in before.items()) and len(rows("mine")) == LOST
    assert rows("other") == rows("whole")[4:] and steps("other") == ["step-6"]
    assert (Path("other") / "model.safetensors").read_bytes() == (Path("whole") / "model.safetensors").read_bytes()


def test_another_run_in_that_folder_is_not_overwritten(runs: Runs, capsys: Capture) -> None:
    runs.interrupted("mine")
    assert runs.whole("other") == 0
    assert run("--resume", "mine", "--out", "other") == 2
    assert "other has the log.jsonl, the model.safetensors and the checkpoints of an earlier" in capsys.readouterr().err
    assert len(rows("other")) == STEPS + 1 and steps("other") == ["step-4", "step-6"]


def test_an_earlier_run_that_was_moved_aside(runs: Runs, capsys: Capture) -> None:
    """The message says how to continue it."""
    assert runs.whole("whole") == 0
    runs.interrupted("build/run")
    assert run(*TINY, "--sample", "0", "--steps", "1", "--warmup", "0") == 0
    said = capsys.readouterr().out
    assert "the earlier run in build/run is now in build/run.1; to continue it: --resume build/run.1\n" in said
    assert run("--resume", "build/run.1") == 0
    assert same("whole", "build/run.1") and len(rows("build/run")) == 2


@pytest.mark.parametrize("there", [True, False])
def test_help(there: bool, runs: Runs, capsys: Capture) -> None:
    """The values are those of the run that would be resumed."""
    if there:
        runs.interrupted("mine")
    for words in (["--resume", "mine", "--help"], ["--help", "--resume", "mine"], ["--resume", "--help"]):
        capsys.readouterr()
        assert run(*words) == 0
        shown = capsys.readouterr()
        assert "--save-every" in shown.out and not shown.err
        assert ("(default: 16)" in shown.out) == (there and "mine" in words)


# Other options --------------------------------------------------------------------------------------------------------


def test_an_option_that_is_given_replaces_the_saved_one(runs: Runs, capsys: Capture) -> None:
    runs.interrupted("mine", "--lr-schedule", "constant")
    capsys.readouterr()
    assert run("--resume", "mine", "--lr", "0.001", "--sample", "0") == 0
    said = capsys.readouterr().out
    assert said.count("from here on") == 1 and "--lr is 0.001 from here on; it was 0.003\n" in said
    assert [row["lr"] for row in rows("mine")[2:STEPS]] == [0.003, 0.003, 0.001, 0.001]
    assert read_index(Path("mine/checkpoints/step-6")).about["run"]["optimizer"]["lr"] == 0.001


def test_more_steps_extend_a_finished_run(runs: Runs, capsys: Capture) -> None:
    """With a schedule that does not depend on the number of steps, it is the longer run."""
    for out, count in (("longer", 9), ("mine", STEPS)):
        assert runs.whole(out, "--lr-schedule", "constant", steps=count) == 0
    capsys.readouterr()
    assert run("--resume", "mine", "--steps", "9") == 0
    said = capsys.readouterr().out
    assert "--steps is 9 from here on; it was 6\n" in said and "step-6: 6 of 9 updates are made\n" in said
    assert [row.get("loss") for row in rows("mine")] == [row.get("loss") for row in rows("longer")]
    for name in ("model.safetensors", "checkpoints/step-9/rank-0-of-1.safetensors"):
        assert (Path("mine") / name).read_bytes() == (Path("longer") / name).read_bytes(), name


def test_fewer_steps_than_there_are(runs: Runs, capsys: Capture) -> None:
    assert runs.whole("mine") == 0
    assert run("--resume", "mine", "--steps", "5") == 2
    said = capsys.readouterr().err
    assert "step-6 has made 6 updates, but --steps is 5: give more, or --resume an earlier checkpoint" in said
    assert len(rows("mine")) == STEPS + 1


def test_a_finished_run_ends_again(runs: Runs, capsys: Capture) -> None:
    """It makes no update, and prints the same loss and the same sample."""
    assert run(*TINY, "--steps", str(STEPS), "--sample", "30", "--out", "mine") == 0
    log, said = (Path("mine") / "log.jsonl").read_bytes(), capsys.readouterr().out
    assert run("--resume", "mine") == 0
    again = capsys.readouterr().out
    end = said.index(f"validation loss {rows('mine')[-1]['final_val_loss']:.4f}")
    assert again.endswith(said[end:]) and "tokens/s" not in again
    assert (Path("mine") / "log.jsonl").read_bytes() == log


def test_the_model_of_a_run_is_its_own(runs: Runs, capsys: Capture) -> None:
    """A checkpoint of another size is refused before anything changes."""
    runs.interrupted("mine")
    assert run("--resume", "mine", "--width", "24") == 2
    said = capsys.readouterr().err
    assert "the checkpoint has shape" in said and "the model needs" in said
    assert len(rows("mine")) == LOST and steps("mine") == ["step-2", "step-4"]


# What cannot be resumed -----------------------------------------------------------------------------------------------


def test_nothing_to_resume(runs: Runs, capsys: Capture) -> None:
    Path("empty").mkdir()
    for words, folder in ((["--resume"], "build/run"), (["--resume", "mine"], "mine"), (["--resume=empty"], "empty")):
        assert run(*words, "--steps", "3") == 2
        assert capsys.readouterr().err == f"minitrain: error: there is no complete checkpoint in {folder}\n"
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "text.txt"]


def test_a_run_that_was_never_saved(runs: Runs, capsys: Capture) -> None:
    assert runs.whole("mine", "--save-every", "0") == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == [".lock", "log.jsonl", "model.safetensors"]
    assert run("--resume", "mine") == 2
    assert "there is no complete checkpoint in mine\n" in capsys.readouterr().err


def test_a_checkpoint_of_another_program(runs: Runs, capsys: Capture) -> None:
    world = world_of_one()
    checkpoints = Checkpoints(Path("mine"), world)
    assert checkpoints.save(Trainer(mlp(MLPConfig(4, (3,), 2)), world))
    checkpoints.close()
    assert run("--resume", "mine") == 2
    assert "mine/step-0 was not saved by train" in capsys.readouterr().err


def test_a_text_with_other_characters(runs: Runs, capsys: Capture) -> None:
    runs.interrupted("mine")
    Path("other.txt").write_text(TEXT.replace("cat", "dog"))
    assert run("--resume", "mine", "--text", "other.txt") == 2
    said = capsys.readouterr().err
    assert "character 'g' at position 4 is not in the vocabulary" in said
    assert len(rows("mine")) == LOST


def test_another_text_with_the_same_characters(runs: Runs, capsys: Capture) -> None:
    runs.interrupted("mine")
    Path("other.txt").write_text("".join(sorted(TEXT)))
    assert run("--resume", "mine", "--text", "other.txt") == 0
    said = capsys.readouterr().out
    assert "the text is not the one of the checkpoint: the batches to come are others than they were\n" in said
    assert "--text is 'other.txt' from here on; it was 'text.txt'\n" in said
    Path("copy.txt").write_text(Path("other.txt").read_text())
    assert run("--resume", "mine", "--text", "copy.txt") == 0
    assert "the text is not the one" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["index.json", "rank-0-of-1.safetensors"])
def test_a_damaged_checkpoint_is_passed_over(file: str, runs: Runs, capsys: Capture) -> None:
    assert runs.whole("whole") == 0
    runs.interrupted("mine")
    damaged = Path("mine/checkpoints/step-4") / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert run("--resume", "mine") == 0
    said = capsys.readouterr().out
    assert f"passed over: {damaged}" in said and "continuing mine/checkpoints/step-2: 2 of 6 updates" in said
    assert rows("mine") == rows("whole")


def test_if_all_are_damaged(runs: Runs, capsys: Capture) -> None:
    runs.interrupted("mine")
    for folder in Path("mine/checkpoints").glob("step-*"):
        (folder / "rank-0-of-1.safetensors").unlink()
    assert run("--resume", "mine") == 2
    said = capsys.readouterr().err
    assert "there is no complete checkpoint in mine\n" in said and said.count("is missing") == 2
    assert len(rows("mine")) == LOST


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kept"),
    [([], ["step-4", "step-6"]), (["--keep", "1"], ["step-6"]), (["--keep", "9"], ["step-2", "step-4", "step-6"])],
)
@pytest.mark.parametrize("how", [[], ["--save-async"]])
def test_how_many_are_kept(options: list[str], kept: list[str], how: list[str], runs: Runs) -> None:
    assert runs.whole("mine", *options, *how) == 0
    assert steps("mine") == kept


def test_overwrite_removes_what_a_run_has_made(runs: Runs) -> None:
    """Files and folders of others stay."""
    assert runs.whole("mine") == 0
    foreign = ["notes", "checkpoints/notes", "checkpoints/step-4/notes", "checkpoints/own/index.json"]
    Path("mine/checkpoints/own").mkdir()
    for name in foreign:
        (Path("mine") / name).write_text("mine")
    assert runs.whole("mine", "--save-every", "0", "--overwrite", steps=3) == 0
    there = {str(path.relative_to("mine")) for path in Path("mine").rglob("*") if path.is_file()}
    assert there - {".lock"} == {*foreign, "log.jsonl", "model.safetensors"}


def test_a_run_that_diverges_can_be_continued_from_before(runs: Runs, capsys: Capture) -> None:
    """The error says from where; and the state before the loss is there as well, to look into it."""
    assert runs.whole("mine", "--lr-schedule", "constant", steps=4) == 0
    capsys.readouterr()
    assert run("--resume", "mine", "--steps", "8", "--lr", "1e30", "--weight-decay", "0") == 2
    said = capsys.readouterr().err
    assert "the loss is nan in batch 5, at update 5" in said
    assert "The last checkpoint is mine/checkpoints/step-4. Continue it, for example, with:\n" in said
    assert "python -m minitrain train --resume mine/checkpoints/step-4 --lr SMALLER\n" in said
    assert "The state before this batch is in mine/not-finite/step-5. To see the error again:\n" in said
    assert run("--resume", "mine/not-finite/step-5", "--out", "again") == 2
    assert "the loss is nan in batch 5, at update 5" in capsys.readouterr().err
    assert run("--resume", "mine/checkpoints/step-4", "--steps", "8", "--lr", "0.001") == 0
    assert [row["step"] for row in rows("mine")] == [*range(1, 9), 8]
    assert [row["lr"] for row in rows("mine")[4:8]] == [0.001] * 4


# Other numbers of ranks -----------------------------------------------------------------------------------------------


def test_one_rank_then_three_then_two(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses are those of one rank, up to the order of sums in float64."""
    precise = ["--dtype", "float64", "--steps", "9"]
    assert runs.whole("whole", *precise) == 0
    runs.interrupted("mine", *precise, at=3)
    for ranks, end in ((3, 7), (2, 0)):
        continued("mine", ranks, end, monkeypatch)
    assert [row["step"] for row in rows("mine")] == [*range(1, 10), 9]
    assert steps("mine") == ["step-8", "step-9"]
    for name in ("loss", "norm", "lr", "val_loss", "final_val_loss"):
        mine, whole = ([row[name] for row in rows(out) if name in row] for out in ("mine", "whole"))
        np.testing.assert_allclose(mine, whole, rtol=1e-12, err_msg=name)


def continued(out: str, ranks: int, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume a run on ranks that are threads, up to update `end`; if it is 0, to the end of the run."""
    config = resumed(["train", "--resume", out], Train())
    config = replace(config, strategy=replace(config.strategy, zero=1))

    def program(world: Communicator) -> None:
        trainer = TextTrainer(config, world)
        try:
            trainer.fit()
        except UserError as error:
            assert str(error) == POWER and end
        finally:
            trainer.close()

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "after", ends_at(end))
        threads.run(ranks, program, timeout=30)


def test_the_checkpoint_may_have_been_copied(runs: Runs) -> None:
    """Nothing in it depends on where it is."""
    assert runs.whole("whole") == 0
    runs.interrupted("mine")
    shutil.copytree("mine", "copy")
    shutil.rmtree("mine")
    assert run("--resume", "copy") == 0
    assert same("whole", "copy") and not Path("mine").exists()
