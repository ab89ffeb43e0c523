"""The curves of a run are the numbers of its log, whatever ends the run; a resumed one continues them."""

import json
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import CurveOptions, DataOptions, ModelOptions, OptimizerOptions, RunOptions
from minitrain.commands.run_checkpoints import RunCheckpoints, Stopped
from minitrain.commands.tensorboard import MEMORY, SKIPPED, SPEED, TAGS
from minitrain.commands.train import TextTrainer
from minitrain.errors import UserError
from minitrain.train.history import Update

pytest.importorskip("tensorboardX")

Capture = pytest.CaptureFixture[str]
Points = dict[str, list[tuple[int, float]]]  # tag -> (step, value), in the order of the files
OPTIONS = "--layers 1 --width 16 --heads 2 --context 16 --batch 7 --warmup 2 --val-every 3 --sample 0"


def run(*arguments: str) -> int:
    """Train in the current folder. Return the status."""
    given = ["--out", "run", "--tensorboard", "curves", *arguments]
    new = [] if "--resume" in arguments else [*OPTIONS.split(), "--text", "text.txt"]
    try:
        return main(["train", *new, *given])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a cat sat on a mat and ate. " * 60)


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]


def crc32c(data: bytes) -> int:
    """Return the CRC of Castagnoli's polynomial, bit by bit, masked as in TensorFlow's records."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(path: Path) -> Iterator[Any]:
    """Yield the events of a file. Every sum must be right, and the file complete."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (of_body,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (crc32c(data[:8]), crc32c(body)) == (of_length, of_body)
        yield Event.FromString(body)
        data = data[16 + length :]


def shown() -> Points:
    """Return the curves as TensorBoard has them: a file that starts at a step replaces those before from there on."""
    points: Points = defaultdict(list)
    for path in sorted(Path("curves").iterdir()):
        first, *rest = events(path)
        assert first.file_version == "brain.Event:2"
        for event in rest:
            if event.HasField("session_log"):
                for tag, curve in points.items():
                    points[tag] = [point for point in curve if point[0] < event.step]
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value))
    return points


def check_same(points: Points, log: list[dict[str, Any]]) -> None:
    """Check that every number of the log is in the curves, as float32, and that there are no others."""
    expected: Points = defaultdict(list)
    skipped = 0
    for row in log:
        skipped += "skipped" in row
        for key, tag in TAGS.items() if "skipped" not in row else ():
            if key in row:
                expected[tag].append((row["step"], float(np.float32(row[key]))))
        if "scale" in row and "skipped" not in row:
            expected[SKIPPED].append((row["step"], skipped))
    updates = [row["step"] for row in log if "norm" in row and "skipped" not in row]
    for tag in (SPEED, MEMORY):
        assert [step for step, _ in points[tag]] == updates and all(value > 0 for _, value in points[tag])
    assert {tag: curve for tag, curve in points.items() if curve and tag not in (SPEED, MEMORY)} == expected


def ends_at(update: int, kind: type[Exception]) -> Any:
    """Return a method for RunCheckpoints that raises after an update, which it does not save."""
    after = RunCheckpoints.after

    def ends(self: RunCheckpoints, made: Update, last: bool) -> None:
        if self.text.trainer.updates == update:
            raise kind("the end")
        after(self, made, last)

    return ends


def test_the_crc() -> None:
    """As RFC 3720 gives it for 32 zeros, before the mask."""
    crc = 0x8A9136AA
    assert crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_curves_are_the_log() -> None:
    """With a loss scale that is too large at first: batches are skipped, at the first step and later."""
    assert run("--steps", "8", "--precision", "fp16", "--loss-scale", "1e12", "--scale-every", "2") == 0
    log, points = rows(), shown()
    check_same(points, log)
    skipped = [value for _, value in points[SKIPPED]]
    assert "skipped" in log[0] and skipped[-1] == sum("skipped" in row for row in log) > skipped[0]
    assert points.keys() == {*TAGS.values(), SKIPPED, SPEED, MEMORY}


@pytest.mark.parametrize(("kind", "status"), [(UserError, 2), (Stopped, 130)])
def test_a_resumed_run_continues_the_curves(
    kind: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "after", ends_at(7, kind))
        assert run("--steps", "9", "--save-every", "4") == status
    check_same(shown(), rows())  # complete, up to the error
    assert rows()[-1]["step"] == 7
    assert run("--resume", "run") == 0
    check_same(shown(), rows())
    assert [step for step, _ in shown()["train/loss"]] == [*range(1, 10)]
    files = sorted(path.name for path in Path("curves").iterdir())
    assert [name.split(".")[-2] for name in files] == ["000000000", "000000004"]


def test_an_earlier_run_is_replaced(capsys: Capture) -> None:
    assert run("--steps", "5") == 0
    assert "earlier run" not in capsys.readouterr().out
    assert run("--steps", "3", "--seed", "2", "--overwrite") == 0
    assert "curves has curves of an earlier run" in capsys.readouterr().out
    check_same(shown(), rows())


def test_a_full_disk_ends_the_curves_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: open("/dev/full", "wb"))  # noqa: SIM115
    assert run("--steps", "4") == 2
    said = capsys.readouterr()
    message = "the curves in curves end before update 1: No space left on device\n"
    assert said.out.count(message) == 1 and said.err == f"minitrain: error: {message}"
    assert len(rows()) == 5 and Path("run/model.safetensors").exists()


def train(world: Communicator, where: Path) -> None:
    model, data = ModelOptions(layers=1, heads=2, width=16, context=16), DataOptions(Path("text.txt"), batch=4)
    optimizer, report = OptimizerOptions(steps=3, warmup=1), RunOptions(out=Path("run"))
    config = TrainConfig(model, data, optimizer, report=report, curves=CurveOptions(where))
    TextTrainer(config, world).fit()


def test_a_folder_that_cannot_be_written_is_refused_on_all_ranks() -> None:
    def program(world: Communicator) -> str:
        with pytest.raises(UserError) as caught:
            train(world, Path("text.txt"))
        return str(caught.value)

    said = threads.run(2, program)
    assert said == ["cannot write in text.txt: File exists; give another folder with --tensorboard"] * 2


def test_without_the_package_no_rank_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboardX", "tensorboardX.event_file_writer"):
        monkeypatch.setitem(sys.modules, name, None)

    def program(world: Communicator) -> str:
        with pytest.raises(UserError) as caught:
            train(world, Path("curves"))
        return str(caught.value)

    said = threads.run(2, program)
    assert said[0] == said[1] and said[0].endswith("pip install 'tensorboardX>=2.6,<3'")
    assert said[0].startswith("--tensorboard needs the package tensorboardX, which cannot be imported (")


def test_rank_0_writes_one_file() -> None:
    threads.run(2, lambda world: train(world, Path("curves")))
    check_same(shown(), rows())
    assert len(list(Path("curves").iterdir())) == 1
