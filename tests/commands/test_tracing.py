"""`train --trace`: which updates are recorded, what is printed, and what is refused before the first step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minitrain.cli import main
from minitrain.comm.threads import world_of_one
from minitrain.commands.options import TraceOptions
from minitrain.commands.tracing import traced, window
from minitrain.observe import recorder
from minitrain.observe.trace import NAME, PICTURE
from minitrain.runtime.mpirun import find_mpirun
from tests.observe.trace_validator import faults

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = "train --layers 2 --width 16 --heads 2 --context 16 --batch 8 --warmup 1 --save-every 0 --sample 0"
STRATEGY = "--dp 2 --pp 2 --zero 1 --accumulate 4 --steps 6"
TINY = OPTIONS.split()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("to be or not to be, that is the question. " * 20)
    return ["--text", str(path)]


@pytest.mark.parametrize(
    ("count", "first", "updates", "expected"),
    [
        (1000, 3, 3, (2, 3)),
        (5, 3, 3, (2, 3)),
        (4, 3, 3, (1, 3)),
        (3, 3, 3, (0, 3)),
        (2, 3, 3, (0, 2)),
        (1, 3, 3, (0, 1)),
        (1000, 1, 1, (0, 1)),
        (1000, 1000, 1, (999, 1)),
        (1000, 5000, 10, (990, 10)),
    ],
)
def test_the_window_fits_the_run(count: int, first: int, updates: int, expected: tuple[int, int]) -> None:
    assert window(count, TraceOptions(None, first, updates)) == expected


def names(folder: Path) -> list[str]:
    """Return the names of the updates in a trace, in order."""
    events = json.loads((folder / NAME).read_text("utf-8"))["traceEvents"]
    return [event["name"] for event in events if event.get("cat") == "update"]


def test_a_run_writes_its_trace(text: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log is that of the same run without a trace, and what is printed fits a terminal."""
    logs = []
    for name, more in (("plain", []), ("traced", ["--trace", str(tmp_path / "t"), "--trace-updates", "2"])):
        assert main([*TINY, *text, "--steps", "6", "--out", str(tmp_path / name), *more]) == 0
        logs.append((tmp_path / name / "log.jsonl").read_text())
    assert logs[0] == logs[1]
    assert names(tmp_path / "t") == ["update 3", "update 4"]
    printed = capsys.readouterr().out
    assert "https://ui.perfetto.dev" in printed and str(tmp_path / "t" / NAME) in printed
    chart = printed[printed.index("update 4:") : printed.index("https://")].splitlines()
    assert all(len(line) <= 80 for line in chart if str(tmp_path) not in line)
    assert any(line.startswith("rank 0 compute") and "0" in line and "a" in line for line in chart)


def test_a_trace_that_cannot_be_written_in_the_end_does_not_stop_the_run(tmp_path: Path) -> None:
    printed: list[str] = []

    def updates() -> Any:
        for number in range(4):
            if number == 3:
                (tmp_path / "t").rmdir()
            yield number

    options = TraceOptions(tmp_path / "t", 3, 2)
    made: list[Any] = list(traced(updates(), 4, options, world_of_one(), printed.append))
    assert made == [0, 1, 2, 3]
    assert len(printed) == 1 and "cannot be written" in printed[0]
    assert recorder.current() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trace", "{file}"], "cannot write a trace in {file}: File exists; give another folder"),
        (["--trace", "{other}"], "is not a trace of minitrain; move it, or give another folder"),
    ],
)
def test_what_is_refused_before_the_first_step(
    options: list[str], message: str, text: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"file": tmp_path / "file", "other": tmp_path / "other"}
    places["file"].write_text("x")
    places["other"].mkdir()
    (places["other"] / NAME).write_text("{}")
    given = [option.format(**places) for option in options]
    with pytest.raises(SystemExit) as end:
        main([*TINY, *text, "--steps", "6", "--out", str(tmp_path / "out"), *given])
    assert end.value.code == 2
    assert message.format(**places) in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.full
@pytest.mark.skipif(find_mpirun() is None, reason="there is no mpirun")
def test_four_processes(text: list[str], tmp_path: Path) -> None:
    command = [str(find_mpirun()), "-n", "4", sys.executable, "-m", "minitrain", *TINY, *text, *STRATEGY.split()]
    command += ["--out", str(tmp_path / "out"), "--trace", str(tmp_path / "t")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert faults(json.loads((tmp_path / "t" / NAME).read_text("utf-8")), 4) == []
    assert sorted(names(tmp_path / "t")) == sorted(4 * ["update 3", "update 4", "update 5"])
    assert (tmp_path / "t" / PICTURE).stat().st_size > 1000 and "rank 3 compute" in done.stdout
