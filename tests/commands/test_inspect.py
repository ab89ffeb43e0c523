"""inspect shows checkpoints, and finds out whether they are what was written."""

import json
from pathlib import Path

import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.models import GPTConfig, gpt
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.trainer import Trainer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run with two checkpoints, of dp 2 x tp 2."""

    def program(world: Communicator) -> None:
        model = gpt(GPTConfig(11, 5, layers=1, heads=2, width=8))
        trainer = Trainer(model, world, mesh=Mesh(world, dp=2, tp=2))
        saves = Checkpoints(tmp_path / "checkpoints", world)
        for updates in (0, 3):
            trainer.optimizer.updates = updates
            if updates:
                for _, _, array in trainer.optimizer.named():
                    array[...] = 1
            about = {"random": {"seed": 7}, "tokenizer": {"name": "characters", "sha256": "ab" * 32}}
            assert saves.save(trainer, about)
        saves.close()

    threads.run(4, program)
    return tmp_path


def said(capsys: Capture, *arguments: object, status: int = 0) -> list[str]:
    capsys.readouterr()
    assert main(["inspect", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return (captured.out if status < 2 else captured.err).splitlines()


def test_what_is_shown(run: Path, capsys: Capture) -> None:
    lines = said(capsys, run)
    index = json.loads((run / "checkpoints" / "step-3" / "index.json").read_text())["checkpoint"]
    assert lines[0].split() == ["parameter", "dtype", "shape", "bytes", "pieces", "optimizer"]
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("blocks", "head", "embed"))}
    assert len(rows) == sum(name.startswith("model/") for name in index["tensors"])
    assert rows["blocks.0.mlp.up.weight"] == ["blocks.0.mlp.up.weight", "float32", "8", "x", "32", "1,024", "4"]
    assert rows["head.norm.bias"][-1] == "1", "its copies are written once"
    for name, size, sha256 in index["files"]:
        assert f"{name}  {size:,}  {sha256[:16]}" in [" ".join(line.split()).replace(" ", "  ") for line in lines]
    assert f"{run}/checkpoints/step-3: 3 updates are made, the next batch is 0" in lines
    assert {"seed 7", "tokenizer name 'characters'", f"tokenizer sha256 {'ab' * 32!r}"} <= set(lines)
    assert [line.split()[:6] for line in lines[-2:]] == [
        ["step-0", "0", "dp", "2", "x", "tp"], ["step-3", "3", "dp", "2", "x", "tp"]
    ]  # fmt: skip
    assert max(map(len, lines)) <= max(80, len(str(run)) + 70)


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/step-3"])
def test_of_a_run_of_its_checkpoints_and_of_one(part: str, run: Path, capsys: Capture) -> None:
    assert said(capsys, run / part)[:20] == said(capsys, run)[:20]


def test_pieces(run: Path, capsys: Capture) -> None:
    lines = said(capsys, run, "--tensor", "model/blocks.0.mlp.up.weight")
    assert lines[0].split() == ["tensor", "rank", "slice", "elements", "of", "it", "crc32"]
    found: dict[str, list[tuple[int, int]]] = {}
    for line in lines[1:]:
        _, rank, *cut, elements, crc32 = line.split()
        first, last = map(int, elements.split(":"))
        assert " ".join(cut) == ("0:8, 0:16", "0:8, 16:32")[int(rank) % 2] and len(crc32) == 8
        found.setdefault(" ".join(cut), []).append((first, last))
    assert all(sorted(runs) == [(0, runs_end := min(runs)[1]), (runs_end, 128)] for runs in found.values())
    assert len(found) == 2
    assert said(capsys, run, "--tensor", "model/none", status=2)[0].startswith(
        "minitrain: error: no tensor matches 'model/none'; the first ones are "
    )


def test_verify(run: Path, capsys: Capture) -> None:
    lines = said(capsys, run, "--verify")
    assert [line.partition(":")[2].split(",")[0].strip() for line in lines[-2:]] == ["verified", "verified"]
    path = run / "checkpoints" / "step-3" / "rank-1-of-4.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert said(capsys, run)[-1].startswith("step-3"), "without --verify, no data is read"
    lines = said(capsys, run, "--verify", status=1)
    assert lines[-2].startswith(f"{run}/checkpoints/step-3: {path} is damaged in 'model/") and "verified" in lines[-1]


def test_a_damaged_index(run: Path, capsys: Capture) -> None:
    path = run / "checkpoints" / "step-3" / "index.json"
    path.write_bytes(path.read_bytes().replace(b'"updates":3', b'"updates":4'))
    lines = said(capsys, run, status=1)
    assert lines[-1] == f"damaged: {path} is damaged: it differs from its sum"
    assert f"{run}/checkpoints/step-0: 0 updates are made, the next batch is 0" in lines
    (run / "checkpoints" / "step-0" / "index.json").unlink()
    lines = said(capsys, run, status=2)
    assert lines == [f"minitrain: error: there is no complete checkpoint in {run}", lines[1]]
    assert lines[1] == f"{path} is damaged: it differs from its sum"


def test_nothing_to_inspect(tmp_path: Path, capsys: Capture) -> None:
    (line,) = said(capsys, tmp_path / "none", status=2)
    assert line.endswith(f"no complete checkpoint in {tmp_path / 'none'}; train writes them: --save-every 100")


def test_train_does_not_continue_what_is_not_its_own(run: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    said = f"{run}/checkpoints/step-3 was not saved by train: load it with minitrain.train.resharding.load"
    assert said in capsys.readouterr().err
