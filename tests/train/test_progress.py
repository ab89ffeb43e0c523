"""What a run prints, and when: lines in a pipe, a bar in a terminal, which leaves nothing behind, whatever ends it."""

import errno
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from minitrain.comm import threads
from minitrain.errors import UserError
from minitrain.runtime import terminal
from minitrain.runtime.mpirun import find_mpirun, outside
from minitrain.train import progress
from minitrain.train.progress import Progress, Task, clock, drawing
from tests.train.test_trainer import data, learn, small

Capture = pytest.CaptureFixture[str]
LIMIT = 60.0  # seconds for a program
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print all progress when something is done, and none in between."""
    monkeypatch.setattr(progress, "QUIET", -1.0)
    monkeypatch.setattr(progress, "PULSE", 60.0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in seconds, in a list; it passes when a test adds to it."""
    time = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: time[0])
    monkeypatch.setattr(progress, "PULSE", 60.0)
    monkeypatch.setattr(progress, "SHOWN", progress.Shown())
    return time


# Lines ----------------------------------------------------------------------------------------------------------------


def test_one_line_an_epoch_on_rank_0(capsys: Capture) -> None:
    threads.run(2, learn)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [f"epoch {n}/4 " for n in (1, 2, 3, 4)]
    assert all("validation loss" in line and "accuracy" in line and len(line) <= 80 for line in lines)


def test_long_epochs_show_that_they_live(capsys: Capture, at_once: None) -> None:
    small(threads.world_of_one()).fit(data(25), 1, data(10))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"epoch 1/1: {n} of 4 batches" for n in (1, 2, 3)]
    assert lines[3:5] == [f"epoch 1/1, {what}: 1 of 2 batches" for what in ("loss", "accuracy")] and len(lines) == 6


def test_a_line_after_two_seconds_without_one(capsys: Capture, now: list[float]) -> None:
    shown = Progress(threads.world_of_one())
    now[0] += 100  # nothing was to be shown: no silence
    for n in shown.watch(range(1, 11), 10, "work", "parts"):
        if n == 4:
            shown.log("a line")
        now[0] += 0.9
    assert capsys.readouterr().out.splitlines() == [
        "work: 3 of 10 parts",
        "a line",
        "work: 6 of 10 parts",
        "work: 9 of 10 parts",
    ]


def test_short_tasks_in_a_row_are_not_silent_together(capsys: Capture, now: list[float]) -> None:
    shown = Progress()
    for name in ("one", "two"):
        for _ in shown.watch(range(3), 3, name):
            now[0] += 0.6
    assert capsys.readouterr().out.splitlines() == ["two: 1 of 3 batches"]


def test_the_thread_says_how_long_nothing_was_done(capsys: Capture, now: list[float]) -> None:
    shown = Progress(threads.world_of_one())

    def beat() -> None:  # what the thread does
        task = progress.SHOWN.tasks[-1]
        progress.SHOWN.show(task, task.waiting)

    with shown.task("outer", 3, "runs"), shown.task("reading"):
        for _ in range(5):
            now[0] += 1.0
            beat()
    with shown.task("work", 3, "parts") as task:
        task.advance()
        now[0] += 65.0
        beat()
    assert capsys.readouterr().out.splitlines() == [
        "outer: 0 of 3 runs; reading: 0:03",
        "work: 1 of 3 parts; 1:05 in the next",
    ]


def test_the_thread_runs_within_a_task_and_ends_with_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET", -1.0)
    monkeypatch.setattr(progress, "PULSE", 0.001)
    shown = Progress(threads.world_of_one())
    with pytest.raises(ZeroDivisionError), shown.task("outer"), shown.task("waiting"):
        deadline = time.monotonic() + LIMIT
        while "waiting" not in capsys.readouterr().out and time.monotonic() < deadline:
            pass
        1 / 0  # noqa: B018
    assert progress.SHOWN.thread is None and not progress.SHOWN.tasks and time.monotonic() < deadline
    capsys.readouterr()


def test_lines_may_go_to_another_stream(capsys: Capture, at_once: None) -> None:
    shown = Progress(threads.world_of_one(), sys.stderr)
    list(shown.watch(range(2), 2, "work"))
    assert capsys.readouterr() == ("", "work: 1 of 2 batches\n")


def test_other_ranks_print_nothing(capsys: Capture, at_once: None) -> None:
    def program(world: threads.Communicator) -> None:
        with Progress(world).task(f"rank {world.rank}", 2, "parts") as task:
            list(task.watch(range(2)))

    threads.run(3, program)
    assert capsys.readouterr().out == "rank 0: 1 of 2 parts\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (65, "1:05"), (3599, "59:59"), (7322, "2:02:02")]
)
def test_a_time(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("value", ["Rich", "bar", "0"])
def test_a_wrong_choice_is_refused_by_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITRAIN_PROGRESS", value)

    def program(world: threads.Communicator) -> str:
        with pytest.raises(UserError) as caught:
            Progress(world)
        return str(caught.value)

    assert threads.run(2, program) == [f"MINITRAIN_PROGRESS is {value!r}; it must be rich (a bar) or plain (lines)"] * 2


# The bar --------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Return the text without colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def tasks(now: list[float]) -> list[Task]:
    """Return two tasks: 30 of 120 updates were made in 10 seconds, and 2 of 8 batches."""
    shown = Progress(threads.world_of_one())
    outer, inner = Task(shown, "training", 120, "updates"), Task(shown, "validation", 8, "batches")
    now[0] += 10
    outer.reach(30)
    inner.reach(2)
    return [outer, inner]


def test_what_the_bar_shows(now: list[float]) -> None:
    outer, inner = tasks(now)
    bar = plain(drawing([outer], 80))
    assert bar.startswith("training ━") and bar.endswith("━ 30/120 updates  3/s  0:30 left")
    outer.note = "loss 2.345"
    assert plain(drawing([outer, inner], 100)).endswith(
        " 30/120 updates  loss 2.345  0:30 left  validation 2/8 batches"
    )
    now[0] += 7
    assert plain(drawing([outer, inner], 120)).endswith("  validation 2/8 batches  0:07 in the next")
    assert drawing([Task(outer.progress, "reading", 0, "")], 80) == "reading 0:00"


@pytest.mark.parametrize("columns", [1, 2, 10, 30, 40, 60, 80, 200])
def test_the_bar_is_narrower_than_the_terminal(columns: int, now: list[float]) -> None:
    line = plain(drawing(tasks(now), columns))
    whole = "training 30/120 updates  3/s  0:30 left  validation 2/8 batches"
    assert len(line) < columns and (("━" in line) == (columns >= 80))
    assert re.sub(" [━╸╺]+", "", line) in (whole, whole[: columns - 1])


def test_no_color(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in drawing(tasks(now), 100)
    monkeypatch.setenv("NO_COLOR", "1")
    assert drawing(tasks(now), 100).startswith("training #######----------------------- 30/120 updates")


# In a terminal --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
import minitrain
from minitrain.errors import UserError
from minitrain.train import progress
progress.SHORT = progress.FRAME = 0.0
with minitrain.launch() as world:
    shown = progress.Progress(world)
    with shown.task("training", 5, "updates") as task:
        for n in task.watch(range(5)):
            if n == 2:
                shown.log("validation loss 1.234")
                if world.rank == 0: print("part", end=""); task.advance(0); print(" of a line")
            if n == 3 and world.size > 1:
                world.barrier()
            if n == 3 and world.rank == int(sys.argv[2]):
                if sys.argv[1] == "error": raise ValueError("a mistake")
                if sys.argv[1] == "user": raise UserError("a mistake")
                if sys.argv[1] == "signal": os.kill(os.getpid(), 2); time.sleep(60)
            if n == 3 and world.size > 1:
                world.barrier()
    shown.log("the end")
"""


def in_terminal(command: Sequence[str], variables: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a terminal of 100 columns. Return its status and all that it wrote."""
    import fcntl
    import termios

    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, start_new_session=True, cwd=ROOT, env=environment(variables)
    )
    os.close(there)
    written, deadline = b"", time.monotonic() + LIMIT
    try:
        while select.select([here], [], [], max(0.0, deadline - time.monotonic()))[0]:
            written += os.read(here, 2**16)
            if written.endswith(b"<end>"):
                break
    except OSError as error:  # Linux says so when all have closed the terminal
        assert error.errno == errno.EIO
    finally:
        os.close(here)
    if time.monotonic() > deadline:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(LIMIT), written.decode()


def environment(variables: Mapping[str, str] | None) -> dict[str, str]:
    as_root = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    mine = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **as_root, **(variables or {})}
    kept = {name: x for name, x in outside(os.environ).items() if name not in ("NO_COLOR", "MINITRAIN_PROGRESS")}
    return {**kept, **mine}


def program(how: str = "none", rank: int = 0, ranks: int = 1) -> list[str]:
    """Return the command that runs PROGRAM."""
    start = [str(find_mpirun()), "-n", str(ranks)] if ranks > 1 else []
    return [*start, sys.executable, "-c", PROGRAM, how, str(rank)]


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows in the end, by the few commands that are used. Others fail."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b\r\n]+|\r|\n|\x1b", written):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            lines.append("")
        elif piece == "\x1b[2K":
            lines[-1] = ""
        elif piece[0] != "\x1b":
            lines[-1] = lines[-1][:column].ljust(column) + piece + lines[-1][column + len(piece) :]
            column += len(piece)
        else:
            assert re.fullmatch(r"\x1b\[[0-9;]*m", piece), f"{piece!r} is none of colors or the line's erasure"
    return lines


def test_a_bar_in_a_terminal() -> None:
    status, written = in_terminal(program())
    bars = [f" {n}/5 updates" for n in range(1, 5)]
    assert status == 0 and [bar for bar in bars if bar in written] == bars
    assert screen(written) == ["validation loss 1.234", "part of a line", "the end", ""]
    assert all(len(line) < 100 for piece in written.split("\r") for line in plain(piece).split("\n"))


@pytest.mark.parametrize("how", ["error", "user", "signal"])
def test_an_error_has_a_line_of_its_own(how: str) -> None:
    status, written = in_terminal(program(how))
    first = {
        "error": "minitrain: rank 0 of 1 raised; the job ends here",
        "user": "minitrain: error: a mistake",
        "signal": "minitrain: rank 0 of 1 was interrupted; the job ends here",
    }[how]
    lines = screen(written)
    assert status == {"error": 1, "user": 2, "signal": 130}[how] and "3/5 updates" in written
    assert lines[:3] == ["validation loss 1.234", "part of a line", first] and lines[-1] == ""
    assert lines[-2].endswith("a mistake") or how == "signal"


@pytest.mark.parametrize(("how", "rank"), [("none", 0), ("error", 1), pytest.param("user", 1, marks=pytest.mark.full)])
def test_a_bar_under_mpirun(how: str, rank: int) -> None:
    status, written = in_terminal(program(how, rank, ranks=2))
    lines = screen(written)
    assert " 2/5 updates" in written and lines.count("validation loss 1.234") == 1
    if how == "none":
        assert status == 0 and lines[-2:] == ["the end", ""]
        return
    assert status != 0 and not any("updates" in line for line in lines)
    said = "minitrain: error: a mistake" if how == "user" else "minitrain: rank 1 of 2 raised; the job ends here"
    assert said in lines


@pytest.mark.parametrize("ranks", [1, 2])
def test_lines_in_a_pipe(ranks: int) -> None:
    """Even if standard input and standard error are a terminal."""
    here, there = pty.openpty()
    try:
        command = program(ranks=ranks)
        done = subprocess.run(
            command, stdin=there, stdout=subprocess.PIPE, stderr=there, cwd=ROOT, env=environment(None), timeout=LIMIT
        )
    finally:
        os.close(there)
        os.close(here)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0 and lines == ["validation loss 1.234", "part of a line", "the end"]


def test_the_variable_decides() -> None:
    assert screen(in_terminal(program(), {"MINITRAIN_PROGRESS": "plain"})[1])[0] == "validation loss 1.234"
    assert "updates" not in in_terminal(program(), {"MINITRAIN_PROGRESS": "plain"})[1]
    assert "\x1b" not in in_terminal(program(), {"TERM": "dumb"})[1]
    variables = environment({"MINITRAIN_PROGRESS": "rich", "COLUMNS": "60"})
    piped = subprocess.run(program(), capture_output=True, timeout=LIMIT, env=variables, cwd=ROOT).stdout.decode()
    lines = [plain(line) for piece in piped.split(terminal.ERASE) for line in piece.splitlines()]
    assert "updates" in piped and max(map(len, lines)) < 60


def test_the_launcher_is_found_among_the_ancestors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closest one counts; a process whose name has parentheses or blanks is passed by."""
    stats = {
        7: "7 (python -c (x)) S 6 0",
        6: "6 (hydra_pmi_proxy) S 5 0",
        5: "5 (mpiexec.hydra) S 4 0",
        4: "4 (mpirun) S 1",
    }
    links = {"/proc/5/fd/1": "/dev/pts/3", "/proc/5/fd/2": "pipe:[17]"}
    monkeypatch.setattr(terminal, "launched", lambda: ("MPICH", 0, 2))
    monkeypatch.setattr(terminal.os, "getppid", lambda: 7)
    monkeypatch.setattr(terminal.os, "readlink", lambda path: links[path])
    monkeypatch.setattr(terminal.Path, "read_text", lambda path: stats[int(path.parts[2])])
    assert (terminal._place(1), terminal._place(2)) == ("/proc/5/fd/1", None)


def test_without_proc_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> str:
        raise FileNotFoundError(2, "no such file", str(path))

    monkeypatch.setattr(terminal, "launched", lambda: ("MPICH", 0, 2))
    monkeypatch.setattr(terminal.Path, "read_text", gone)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.find_terminal() is None and terminal.fresh_line() == ""
