"""Every figure on the command line: its files, its colors, its width, and what happens without matplotlib."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minitrain.cli import main
from minitrain.commands.draw.drawing import Picture
from tests.commands.draw.test_loss import ROWS, log
from tests.observe.test_palette import flaws
from tests.tiers import full

SMALL = "--layers 2 --heads 2 --width 8 --context 8 --batch 8"
FIGURES = {
    "same-run": "--layers 6 --heads 4 --width 16 --context 8 --batch 8 --updates 11",
    "loss": "RUN RUN --log",
    "scale": "RUN",
    "rates": "--steps 60",
    "schedules": "--pp 2 --accumulate 4",
    "memory": f"{SMALL} --recompute 1 --memory-gb 0.0005",
    "saw-tooth": f"{SMALL} --dp 2 --against 2",
    "traffic": f"{SMALL} --dp 2 --pp 2 --tp 1 --accumulate 2",
    "buckets": f"{SMALL} --points 5",
    "scaling": f"{SMALL} --ranks 4 8 16 --pp 2 --tp 2 --accumulate 2 --at 8",
    "landscape": f"{SMALL} --ranks 2 --memory-gb 0.0002",
}


def arguments(name: str, tmp_path: Path) -> list[str]:
    """Return the command line of a small figure, which is written to tmp_path."""
    run = log(tmp_path / "run", [row | {"scale": 8.0} for row in ROWS])
    return ["draw", name, *FIGURES[name].replace("RUN", str(run)).split(), "--to", str(tmp_path / "figures")]


def test_every_figure_is_tested() -> None:
    assert {kind.name for kind in Picture.__subclasses__()} == set(FIGURES)


SLOW = ("same-run", "landscape", "scaling", "traffic")  # tested by their own files, too


@pytest.mark.parametrize("name", [full(name) if name in SLOW else name for name in FIGURES])
def test_a_figure(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert main(arguments(name, tmp_path)) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 5
    folder = tmp_path / "figures"
    assert {path.name for path in folder.iterdir()} == {f"{name}.{ending}" for ending in ("svg", "png", "json")}
    assert all(str(path) in last for path in folder.iterdir())
    assert json.loads((folder / f"{name}.json").read_text("utf-8"))
    svg = (folder / f"{name}.svg").read_text("utf-8")
    assert flaws(svg) == [] and 'width="504pt"' in svg, "7 inches"
    assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib(tmp_path: Path) -> None:
    """The text and the numbers are there all the same."""
    words = arguments("rates", tmp_path)
    program = f"import sys; sys.modules['matplotlib'] = None; from minitrain.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install matplotlib" in done.stdout and "cosine-restarts" in done.stdout
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["rates.json"]


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures").write_text("a file", "utf-8")
    assert main(arguments("rates", tmp_path)) == 2
    assert "give another folder" in capsys.readouterr().err


def test_only_rank_0_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main(arguments("rates", tmp_path)) == 0
    assert not (tmp_path / "figures").exists() and capsys.readouterr().out == ""


def test_measuring_under_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main([*arguments("buckets", tmp_path), "--measure"]) == 2
