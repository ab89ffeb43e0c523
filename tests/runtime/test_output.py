"""What all ranks print comes from rank 0, in order, in one piece, and without delay."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.runtime.output import print_in_order, watching_output

ROOT = Path(__file__).resolve().parents[2]


class Page(io.StringIO):
    """Records every write, and what had been written at the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.flushed = ""

    def write(self, text: str) -> int:
        self.writes += [text] if text else []
        return super().write(text)

    def flush(self) -> None:
        super().flush()
        self.flushed = self.getvalue()


def speak(world: Communicator) -> None:
    """Print texts that are unsorted, repeated, or several lines long."""
    texts = ["zebra", "two\n lines", "", "two\n lines"][: world.size]
    for _ in range(20):
        page = Page()
        print_in_order(world, texts[world.rank], page)
        expected = ["".join(f"{text}\n" for text in texts)] if world.rank == 0 else []
        assert page.writes == expected and page.flushed == "".join(expected)


@pytest.mark.ranks(2, 3, full=(1, 4))
def test_under_mpi(world: Communicator) -> None:
    speak(world)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_with_threads(size: int) -> None:
    threads.run(size, speak, timeout=20)


def test_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    threads.run(3, lambda world: print_in_order(world, f"rank {world.rank}"), timeout=20)
    assert capsys.readouterr().out == "rank 0\nrank 1\nrank 2\n"


# Output that cannot be written --------------------------------------------------------------------------------------


def test_a_character_that_the_terminal_lacks_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, "ascii"))
    assert watching_output(lambda: print("a\u00fc\u20ac\ud800") or 3) == 3
    assert data.getvalue() == b"a\\xfc\\u20ac\\ud800\n"


class Full(io.StringIO):
    """Accepts writes but fails at the flush."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        if self.getvalue():
            raise self.error


def print_and_exit() -> int:
    """Print like argparse's --help, which ignores errors in its output."""
    with contextlib.suppress(OSError):
        print("usage", flush=True)
    sys.exit(0)


@pytest.mark.parametrize("command", [lambda: print("words") or 0, lambda: print("words", flush=True), print_and_exit])
@pytest.mark.parametrize(("error", "said"), [(BrokenPipeError(32, "Broken pipe"), ""), (OSError(28, "No space"), "No")])
def test_output_that_is_lost(
    command: Callable[[], int],
    error: OSError,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk is reported; a closed pipe is not."""
    page = Full(error)
    monkeypatch.setattr(sys, "stdout", page)
    assert watching_output(command) == 2 and sys.stdout is page
    shown = capsys.readouterr().err
    assert shown == ("minitrain: error: cannot write the output: No space; redirect it elsewhere\n" if said else "")


def test_other_errors_pass() -> None:
    with pytest.raises(FileNotFoundError):
        watching_output(lambda: len(Path("nowhere").read_text()))
    with pytest.raises(SystemExit):
        watching_output(lambda: sys.exit(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("program", ["minitrain train --help", "minitrain.lessons"])
def test_commands_whose_output_has_no_place(program: str) -> None:
    """Run in separate processes, since Python flushes once more at exit."""
    command = [sys.executable, "-m", *program.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "minitrain: error: cannot write the output: No space left on device; redirect it elsewhere\n"


def test_a_training_whose_reader_has_left() -> None:
    """This holds inside launch(), too, where other errors of a rank are printed with a traceback."""
    program = "import minitrain\nwith minitrain.launch():\n    while True: print('line', flush=True)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 2
