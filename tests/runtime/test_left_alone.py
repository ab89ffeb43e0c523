"""A rank that leaves the others waiting is reported with its position, and the job ends within the limit."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.rank_positions import Standing, report, stuck, together
from minitrain.errors import UserError
from minitrain.runtime.mpirun import find_mpirun
from tests.lessons.together import started
from tests.runtime import alone
from tests.tiers import full

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = find_mpirun()
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
# from a helper thread that is woken up in order to end
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
FIRST = "ranks are waiting, and none has made progress for {} s; the job ends here"

# ranks, layout, what one rank does, which rank
WAITING_THREADS = [
    (2, "dp", "returns", 1),
    (4, "dp", "returns", 0),
    (2, "dp", "sleeps", 0),
    (3, "dp", "waits in a lock", 2),
    (4, "dp", "waits for a thread that has left", 1),
    (3, "dp", "receives what nobody sends", 0),
    (2, "dp", "waits for a thread that has left", 0),
    (2, "overlap", "returns", 1),
    (2, "zero3", "returns", 0),
    (3, "zero3", "sleeps", 1),
    (2, "zero3", "waits in a lock", 1),
    (2, "tp", "returns", 1),
    (2, "tp", "sleeps", 0),
    (4, "tp", "waits for a thread that has left", 2),
    (2, "pp", "returns", 1),
    (3, "pp", "sleeps", 1),
    (4, "pp", "skips", 0),
    (2, "pp", "waits in a lock", 0),
]
BUSY_THREADS = [(2, "dp", "evaluates", 0), (3, "dp", "computes", 1), (4, "zero3", "computes", 3)]
UNDER_MPI = [
    (2, "dp", "is stopped", 1),
    (3, "dp", "returns", 1),
    (2, "dp", "skips", 1),
    (2, "dp", "evaluates", 0),
    (3, "dp", "waits elsewhere", 0),
    (2, "zero3", "is stopped", 0),
    (3, "zero3", "waits in a lock", 2),
    (2, "tp", "is stopped", 1),
    (2, "pp", "is stopped", 1),
    (3, "pp", "returns", 0),
    (4, "pp", "sleeps", 1),
]
Case = tuple[int, str, str, int]


def some(cases: list[Case], first: int) -> list[object]:
    """Put the first cases in the first tier and the rest in the second."""
    return [*cases[:first], *map(full, cases[first:])]


def name(case: tuple) -> str:
    return " ".join(map(str, case))


def place(way: str) -> str:
    """Return the line of alone.py on which the rank stays."""
    lines = Path(alone.__file__).read_text().splitlines()
    return next(f"alone.py:{n}" for n, line in enumerate(lines, 1) if line.endswith(f"# {way}"))


def stands(way: str) -> str:
    """Return the message about the rank that leaves in this way."""
    if way in ("returns", "skips"):
        return "ended" if way == "returns" else r"waiting in barrier at \S*alone.py:\d+"
    if way == "is stopped":
        return r"no answer \(it is stopped by a signal, or its process is gone\)"
    doing = {
        "evaluates": "evaluating alone, under no_grad,",
        "receives what nobody sends": r"waiting in receive from rank \d",
        "waits elsewhere": "waiting in barrier",
    }.get(way, "at work")
    return rf"{doing} at \S*{place(way)}"


def check(message: str, ranks: int, way: str, who: int, limit: str) -> None:
    """Check the three lines: each rank is named once, and the one that left by what it does."""
    first, second, third = message.splitlines()
    assert first == FIRST.format(limit) and "MINITRAIN_WAIT" in third
    parts = second.split("; ")
    named = [n for part in parts for n in numbers(part.partition(":")[0])]
    assert sorted(named) == list(range(ranks)), second
    mine = next(part for part in parts if who in numbers(part.partition(":")[0]))
    assert re.fullmatch(rf"ranks? [\d, -]+: {stands(way)}", mine), (mine, stands(way))
    assert all("waiting in " in part for part in parts if part is not mine), second


def numbers(text: str) -> list[int]:
    """Return [0, 1, 2, 5] for "ranks 0-2, 5"."""
    runs = [run.split("-") for run in re.findall(r"\d+(?:-\d+)?", text)]
    return [n for run in runs for n in range(int(run[0]), int(run[-1]) + 1)]


def on_threads(case: Case) -> tuple[str, float]:
    """Return (message, seconds until it came)."""
    ranks, layout, way, who = case
    began = time.monotonic()
    with pytest.raises(TimeoutError) as error:
        threads.run(ranks, lambda world: alone.train(world, layout, way, who), timeout=30, wait=1.0)
    return str(error.value), time.monotonic() - began


@pytest.fixture(scope="module")
def waiting(request: pytest.FixtureRequest) -> Iterator[dict[tuple, Future]]:
    """Run the cases in which no rank computes, several at a time: they only wait."""
    yield from started(request, ("case",), on_threads, workers=4)


@pytest.mark.parametrize("case", some(WAITING_THREADS, 6), ids=name)
def test_threads(case: Case, waiting: dict[tuple, Future]) -> None:
    ranks, _, way, who = case
    said, seconds = waiting[case,].result()
    assert seconds < alone.LONG
    check(said, ranks, way, who, "1")


@pytest.mark.parametrize("case", some(BUSY_THREADS, 1), ids=name)
def test_busy_threads(case: Case) -> None:
    ranks, _, way, who = case
    said, seconds = on_threads(case)
    assert seconds < alone.LONG
    check(said, ranks, way, who, "1")


@needs_mpirun
@pytest.mark.parametrize("case", some(UNDER_MPI, 1), ids=name)
def test_mpi(case: Case) -> None:
    ranks, layout, way, who = case
    status, said = job(ranks, ["-m", "tests.runtime.alone", layout, way, str(who)], 1)
    assert status != 0
    message = said.partition("minitrain: error: ")[2]
    check("\n".join(message.splitlines()[:3]), ranks, way, who, "1")
    assert said.count("minitrain: error: ") == 1
    # A stopped rank is woken up to be ended. It cannot be silenced, and may still report that it was stopped, or (under
    # Open MPI, rarely) the error of a communication whose other side has gone.
    assert way == "is stopped" or (said.count("minitrain: ") == 1 and "Traceback" not in said)


def job(ranks: int, command: list[str], limit: float | str, seconds: float = 20.0) -> tuple[int, str]:
    """Run a job that must end in time. Return (status, output)."""
    assert MPIRUN is not None
    done = subprocess.run(
        [MPIRUN, "-n", str(ranks), sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=seconds, env={**os.environ, "MINITRAIN_WAIT": str(limit)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@needs_mpirun
@pytest.mark.full
def test_ranks_that_move_are_left_in_peace(tmp_path: Path) -> None:
    """One rank waits for several limits while two others communicate; then one has ended and another works alone."""
    program = """
import time, numpy as np, minitrain
with minitrain.launch(wait=0.5) as world:
    if world.rank > 0:
        pair = world.subgroup([1, 2])
        for _ in range(4):
            time.sleep(0.25)
            pair.barrier()
    world.barrier()
    if world.rank == 0:
        time.sleep(1.2)
print("well", flush=True)
"""
    status, said = job(3, ["-c", program], 60)
    assert status == 0 and said.count("well") == 3
    assert re.search(
        r"still waiting for all ranks to end; rank 0: at work at <string>:11; ranks 1, 2: ended\n", said
    ), said


def test_threads_that_move_are_left_in_peace() -> None:
    def program(world: Communicator) -> None:
        if world.rank > 0:
            pair = world.subgroup([1, 2])
            for _ in range(6):
                time.sleep(0.1)
                pair.barrier()
        world.barrier()
        if world.rank == 0:
            time.sleep(0.5)

    threads.run(3, program, wait=0.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("soon", "'soon'; it must be a number of seconds"),
        ("0", "0.0; it must be a number, above 0"),
        ("nan", "nan; it"),
    ],
)
def test_a_limit_without_meaning(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITRAIN_WAIT", text)
    with pytest.raises(UserError, match=f"MINITRAIN_WAIT is {said}"):
        threads.run(2, lambda world: None)
    monkeypatch.delenv("MINITRAIN_WAIT")
    with pytest.raises(UserError, match="wait is -1; it must be a number, above 0"):
        threads.run(2, lambda world: None, wait=-1)


@needs_mpirun
def test_a_limit_without_meaning_is_said_once() -> None:
    status, said = job(2, ["-c", "import minitrain\nwith minitrain.launch(): print('began')"], "soon")
    assert status == 2 and "began" not in said
    assert said.count("minitrain: error: MINITRAIN_WAIT is 'soon'; ") == said.count("minitrain:") == 1


def test_many_ranks_are_named_together() -> None:
    ranks = [Standing(True, 9.0, "waiting in barrier at a.py:1")] * 62 + [Standing(False, 9.0, "ended")] * 2
    ranks[7] = Standing(False, 9.0, "at work at a.py:5")
    assert together(ranks) == (
        "ranks 0-6, 8-61: waiting in barrier at a.py:1; rank 7: at work at a.py:5; ranks 62, 63: ended"
    )
    assert stuck(ranks, 9.0) and not stuck(ranks, 9.5) and not stuck(ranks[-2:], 9.0)
    everywhere = [Standing(True, 9.0, f"waiting in barrier at a.py:{rank}") for rank in range(20)]
    assert len(report(everywhere, 9.0).splitlines()) == 3 and "; and 12 other places" in report(everywhere, 9.0)


# Termination from outside ---------------------------------------------------------------------------------------------

WAITS = """
import os, time, numpy as np, minitrain
from minitrain.runtime import abort
abort.PATIENCE = 15.0  # on a busy machine, rank 0 may need more than two seconds to report
with minitrain.launch() as world:
    world.barrier()
    if world.rank == 0:
        open(PATH, "w").write("x")
    WAIT
"""
RECEIVES = "world.receive(np.ones(1), 1 - world.rank, ('a', 'b'))"


@needs_mpirun
@pytest.mark.parametrize(
    ("sent", "wait"),
    [
        (signal.SIGINT, RECEIVES),
        (signal.SIGTERM, "time.sleep(60)"),
        full(signal.SIGINT, "time.sleep(60)"),
        full(signal.SIGTERM, RECEIVES),
    ],
)
def test_an_interrupt_is_said_once(sent: signal.Signals, wait: str, tmp_path: Path) -> None:
    """Rank 0 reports it, whichever of the two signals mpirun passes on, and wherever the ranks are.

    Uses a terminal: Open MPI's mpirun drops what ranks print after an interrupt.
    """
    began = tmp_path / "began"
    program = WAITS.replace("PATH", repr(str(began))).replace("WAIT", wait)
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(MPIRUN or "", [MPIRUN or "", "-n", "2", sys.executable, "-c", program])
    deadline, said, told = time.monotonic() + 30, "", False
    while time.monotonic() < deadline:
        if began.exists() and not told:
            os.kill(process, sent)
            told = True
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                said += os.read(terminal, 4096).decode()
            except OSError:  # nobody has it open any more
                break
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    assert time.monotonic() < deadline and status != 0 and "Traceback" not in said
    assert said.count("minitrain: rank 0 of 2 was interrupted; the job ends here") == said.count("minitrain:") == 1, (
        said
    )


@needs_mpirun
@pytest.mark.parametrize("stream", ["None", full("NoStream()")])
def test_without_a_stream_to_write_to_a_job_ends_too(stream: str) -> None:
    program = f"""
import sys, numpy as np, minitrain
class NoStream: pass
with minitrain.launch() as world:
    if world.rank == 1:
        sys.stdout = sys.stderr = {stream}
        raise ValueError("the cause")
    world.all_reduce(np.ones(3), ("dp", "test"))
"""
    status, said = job(2, ["-c", program], 60, seconds=10)
    assert status != 0 and ("the cause" in said) == (stream == "None")
