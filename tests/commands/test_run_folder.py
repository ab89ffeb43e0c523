"""One folder is one run: runs do not mix, earlier ones are not lost silently, and a full disk loses no model."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.threads import world_of_one
from minitrain.commands import compare_schedules, figure
from minitrain.commands.run_folder import RunFolder, write_somewhere
from minitrain.commands.train import TextTrainer
from minitrain.errors import UserError
from minitrain.train import checkpoint
from minitrain.train.tensor_file import Files

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("log.jsonl", "model.safetensors")
OPTIONS = "--layers 1 --width 16 --heads 2 --context 16 --batch 7 --warmup 0 --sample 0"
TINY = OPTIONS.split()


def run(*arguments: str) -> int:
    """Run the command in this process. Return its status."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that trains for n updates in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a cat sat on a mat and ate. " * 60)
    return lambda steps, *more: run("train", *TINY, "--text", "text.txt", "--steps", str(steps), *more)


def updates(folder: str) -> int:
    """Return the updates of the run whose log and model are in this folder."""
    *steps, last = map(json.loads, (Path(folder) / "log.jsonl").read_text().splitlines())
    assert [row["step"] for row in steps] == list(range(1, last["step"] + 1)) and "final_val_loss" in last
    _, about = checkpoint.load(Path(folder) / "model.safetensors")
    assert about["run"]["optimizer"]["steps"] == last["step"]
    return last["step"]


# An earlier run -----------------------------------------------------------------------------------------------------


def test_the_same_command_can_be_repeated(train: Callable[..., int], capsys: Capture) -> None:
    """In the default folder (`make train`, the README's loop) runs may be repeated; `sample` reads the last one."""
    assert train(1) == 0
    assert "earlier run" not in capsys.readouterr().out
    for steps, moved in ((2, "build/run.1"), (3, "build/run.2")):
        assert train(steps) == 0
        said = f"the earlier run in build/run is now in {moved}; to continue it: --resume {moved}\n"
        assert said in capsys.readouterr().out
    assert [updates(folder) for folder in ("build/run", "build/run.1", "build/run.2")] == [3, 1, 2]


def test_a_folder_with_a_name_is_not_overwritten_unasked(train: Callable[..., int], capsys: Capture) -> None:
    assert train(1, "--out", "mine") == 0 and train(2, "--out", "mine") == 2
    said = (
        "mine has the log.jsonl, the model.safetensors and the checkpoints of an earlier run; give --resume mine to "
        "continue it, --overwrite to replace it, or another folder"
    )
    assert said in capsys.readouterr().err
    assert updates("mine") == 1
    assert train(2, "--out", "mine", "--overwrite") == 0
    assert updates("mine") == 2 and not Path("mine.1").exists()


@pytest.mark.parametrize("folder", [[], ["--out", "mine", "--overwrite"]])
def test_a_run_that_makes_no_update_changes_nothing(
    folder: list[str], train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(1, *folder) == 0
    there = folder[1] if folder else "build/run"

    def explode(_: TextTrainer, count: int) -> None:
        raise UserError("the loss is nan")

    monkeypatch.setattr(TextTrainer, "updates", explode)
    assert train(2, *folder) == 2
    assert updates(there) == 1 and not Path("build/run.1").exists()


def test_lr_range_and_compare_go_through_the_same_door(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(compare_schedules, "NAMES", compare_schedules.SHOWN)
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)  # no pictures
    test = ["lr-range", *TINY, "--text", "text.txt", "--updates", "12"]
    small = ["compare", "schedules", "--updates", "20", "--seeds", "1", "--lr", "0.01"]
    for command, name, default in ((test, "lr_range.json", "build/run"), (small, "schedules.json", "build/compare")):
        assert run(*command, "--out", "mine") == 0 and run(*command, "--out", "mine") == 2
        assert f"mine has the {name} of an earlier run; give --overwrite" in capsys.readouterr().err
        assert run(*command, "--out", "mine", "--overwrite") == 0
        assert run(*command) == 0 and run(*command) == 0
        assert f"the earlier run in {default} is now in {default}.1\n" in capsys.readouterr().out
        assert Path(f"{default}.1", name).exists() and Path(default, name).exists()


# Two runs at once ---------------------------------------------------------------------------------------------------


RIGHTS: list[dict[str, Any]] = [{}, {"overwrite": True}, {"aside": True}]


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    world = world_of_one()
    with RunFolder(world, tmp_path, NAMES):
        for rights in RIGHTS:
            with pytest.raises(UserError, match=rf"a run is writing in {tmp_path} now \(process {os.getpid()} on "):
                RunFolder(world, tmp_path, NAMES, **rights)
    RunFolder(world, tmp_path, NAMES).__exit__(None, None, None)


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from minitrain.comm.threads import world_of_one\n"
        "from minitrain.commands.run_folder import RunFolder\n"
        "with RunFolder(world_of_one(), Path(sys.argv[1]), ('x',)): print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            RunFolder(world_of_one(), tmp_path, NAMES)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunFolder(world_of_one(), tmp_path, NAMES) as folder:
        assert folder.begin() == ""


def test_all_ranks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{}")

    def program(world: Communicator) -> str:
        with pytest.raises(UserError) as error:
            RunFolder(world, tmp_path, NAMES)
        return str(error.value)

    said = threads.run(3, program, timeout=20)
    assert len(set(said)) == 1 and "has the log.jsonl of an earlier run" in said[0]


# A disk that is full ------------------------------------------------------------------------------------------------


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_model_is_saved_elsewhere(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Training is complete by then. The status is not 0, since later commands look for the model in the folder."""
    written, create = tmp_path / "temporary", Files.create
    written.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(written))
    monkeypatch.setattr(Files, "create", lambda self, path: (no_space if "mine" in str(path) else create)(self, path))
    assert train(2, "--out", "mine") == 2
    (there,) = written.glob("minitrain-*/model.safetensors")
    said = capsys.readouterr().err
    assert said == (
        "minitrain: error: cannot write mine/model.safetensors: No space left on device; "
        f"it is in {there}: move it from there\n"
    )
    assert checkpoint.load(there)[1]["run"]["optimizer"]["steps"] == 2
    assert sorted(path.name for path in Path("mine").iterdir()) == [".lock", "checkpoints", "log.jsonl"]


def test_training_goes_on_without_its_log(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    append = RunFolder.append
    monkeypatch.setattr(
        RunFolder, "append", lambda self, name, line: (no_space if '"step": 2' in line else append)(self, name, line)
    )
    assert train(3, "--out", "mine") == 2
    shown = capsys.readouterr()
    said = "the log mine/log.jsonl ends before update 2: No space left on device\n"
    assert shown.out.count(said) == 1 and shown.err == f"minitrain: error: {said}"
    assert len(Path("mine/log.jsonl").read_text().splitlines()) == 1 and checkpoint.load(Path("mine/model.safetensors"))


def test_a_file_that_can_be_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot write x: No space.*; nor in the temporary folder .*: No space"):
        write_somewhere(Path("x"), no_space)
    path, said = write_somewhere(tmp_path / "x", lambda to: to.write_bytes(np.ones(3).tobytes()))
    assert path == tmp_path / "x" and path.stat().st_size == 24 and said == ""
