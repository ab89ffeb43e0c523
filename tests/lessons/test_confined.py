"""A check runs a student's code within limits, and nothing of it is left: processes, files, open pipes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Timer

import pytest

from minitrain.lessons import confined, supervisor
from minitrain.lessons.check import Verdict, check, read
from minitrain.lessons.manifest import exercises
from minitrain.lessons.report import reports_in
from tests.processes import processes
from tests.tiers import full

SHARD_OF = next(e for e in exercises() if e.id == "07.1")
LINUX = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
SLEEP = "subprocess.Popen(['sleep', '7531'], start_new_session=True{})"


def program(text: str, seconds: float = 20.0, stop: Event | None = None) -> tuple[confined.Output, list[str]]:
    """Run a program. Return its output and the files that it left in the scratch folder."""
    with confined.scratch() as folder:
        command = [sys.executable, "-c", f"import os, signal, subprocess, sys, time\n{text}"]
        output = confined.run(command, folder, dict(os.environ), seconds, stop=stop)
        found = subprocess.run(["find", ".", "-type", "f"], cwd=folder, capture_output=True, text=True)
        files = sorted(found.stdout.split())
    assert not folder.exists()
    return output, files


def sleepers() -> list[int]:
    return processes("cmdline", "sleep\x007531\0")


def test_output_and_files_stay_in_the_scratch_folder() -> None:
    output, files = program("print('hello'); open('../../x', 'w'); print(os.environ['TMPDIR'] in os.getcwd())")
    assert output.end == "hello\nTrue\n" and not output.late and not output.crowded
    assert files == ["./a/b/c/d/e/f/x"]


def test_a_flood_of_output_is_counted() -> None:
    output, _ = program("for _ in range(200): os.write(2, b'a' * 10**6)")
    assert output.size == 200 * 10**6 and output.end == "a" * confined.KEPT


@LINUX
@pytest.mark.parametrize(
    "text",
    [
        SLEEP.format(""),
        SLEEP.format(", env={}"),
        full(f"os.fork(); os.setsid(); os.fork(); {SLEEP.format('')}"),
        full(f"{SLEEP.format(', env={}')}; os._exit(7)"),
        full(f"{SLEEP.format('')}; os.kill(os.getppid(), 9); time.sleep(100)"),
        full(f"signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); {SLEEP.format('')}; time.sleep(100)"),
    ],
)
def test_no_process_is_left(text: str) -> None:
    began = time.monotonic()
    program(text, seconds=2.0)
    assert sleepers() == [] and time.monotonic() - began < 15


def test_a_program_that_does_not_end() -> None:
    began = time.monotonic()
    output, _ = program("while True: pass", seconds=1.0)
    assert output.late and 1 <= time.monotonic() - began < 10


@LINUX
def test_a_fork_bomb() -> None:
    output, _ = program("while True: os.fork()")
    assert output.crowded and not output.late


def test_a_check_is_stopped() -> None:
    stop, began = Event(), time.monotonic()
    Timer(0.3, stop.set).start()
    output, _ = program("time.sleep(60)", seconds=60, stop=stop)
    assert time.monotonic() - began < 10 and not output.late


@LINUX
def test_limits() -> None:
    output, _ = program(
        "import resource as r\n"
        "for kind in (r.RLIMIT_CORE, r.RLIMIT_FSIZE, r.RLIMIT_DATA): print(r.getrlimit(kind)[0])\n"
        "print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')"
    )
    assert output.end == f"0\n{supervisor.FILE}\n{supervisor.MEMORY}\nTrue True\n"


def test_a_command_that_does_not_exist() -> None:
    with confined.scratch() as folder:
        output = confined.run(["/no/such/command"], folder, dict(os.environ), 5.0)
    assert output.end == "/no/such/command: No such file or directory\n"


@pytest.mark.full
def test_folders_without_permissions_or_very_deep_are_removed() -> None:
    program("os.mkdir('a'); open('a/b', 'w'); os.chmod('a', 0)")
    program("for _ in range(2000): os.mkdir('d'); os.chdir('d')")


def checked(text: str | bytes, folder: Path, limit: float = 30.0) -> Verdict:
    file = folder / "07_data_parallel" / "exercise.py"
    file.parent.mkdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return check(SHARD_OF, file, limit=limit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff", "07_data_parallel/exercise.py is not Python code: 'utf-8' codec"),
        (b"x = 1\0", "null bytes"),
        (b"-" * 200_000 + b"1", "is not Python code: nested too deeply"),
        (b"(" * 200_000, "too many nested parentheses"),
        (b"#" * 10**6 + b"#", "07_data_parallel/exercise.py: 1,000,001 bytes; an exercise.py has at most 1,000,000"),
        full("def shard_of(n, parts, i):\n    open('x', 'wb').write(bytes(10**8))\n", "File too large"),
        full("def shard_of(n, parts, i):\n    x = [bytes(10**8) for _ in range(10**4)]\n", "MemoryError"),
        full("import os\ndef shard_of(n, parts, i):\n    while True: os.fork()\n", "started too many processes"),
        full(
            "import re\ndef shard_of(n, parts, i):\n    re.match('(a+)+$', 'a' * 50 + 'b')\n",
            "not done after 1 s (slow, or stuck):\nrank 0 says nothing (stuck in a call outside of Python?)",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_breaks_out(text: str | bytes, says: str, tmp_path: Path) -> None:
    verdict = checked(text, tmp_path, limit=1.0 if "re.match" in str(text) else 30.0)
    assert verdict.state == "failed" and says in verdict.sentence and len(verdict.sentence) < 600, verdict
    assert verdict.late == ("re.match" in str(text))


def test_the_students_folder_stays_as_it_is(tmp_path: Path) -> None:
    """The function writes next to its file and into its home, and changes its own file."""
    text = (
        "from pathlib import Path\n"
        "def shard_of(n, parts, i):\n"
        "    Path(__file__).chmod(0o600)\n"
        "    Path(__file__).write_text('')\n"
        "    Path(__file__).parent.joinpath('new').touch()\n"
        "    Path(__file__).parents[2].joinpath('new').touch()\n"
        "    Path.home().joinpath('new').touch()\n"
        "    print(Path.home())\n"
    )
    verdict = checked(text, tmp_path)
    assert verdict.printed and "lessons-" in verdict.printed[0], verdict
    assert [path.name for path in tmp_path.rglob("*")] == ["07_data_parallel", "exercise.py"]
    assert (tmp_path / "07_data_parallel" / "exercise.py").read_text("utf-8") == text


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "exercise.py")
    with pytest.raises(OSError, match="not a file, but a pipe or a device"):
        read(tmp_path / "exercise.py")
    assert "not a file" in check(SHARD_OF, tmp_path / "exercise.py").sentence


def test_reports_that_are_none_are_left_out(tmp_path: Path) -> None:
    good = '{"rank": 1, "ok": true, "failure": "", "signature": [["a", "b"]], "remarks": [], "printed": []}'
    contents = ["", "[" * 10**5, "null", "{}", good, good.replace('"ok": true', '"ok": 1'), good.replace('"b"', "2")]
    for number, text in enumerate([*contents, good.replace("1", "7").replace('[["a", "b"]]', "[1]")]):
        (tmp_path / f"rank_{number}.json").write_text(text, "utf-8")
    (tmp_path / "rank_1.json").write_text(good, "utf-8")
    (tmp_path / "rank_8.json").mkdir()
    os.mkfifo(tmp_path / "rank_9.json")
    assert list(reports_in(tmp_path)) == [1]
