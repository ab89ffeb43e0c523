"""A failing rank ends its whole job within 5 s, with a message of which rank and why, and a nonzero status."""

import os
import re
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from minitrain.environment import LAUNCHERS
from minitrain.errors import UserError
from minitrain.runtime import abort, launch
from minitrain.runtime.mpirun import find_mpirun
from tests.tiers import full

MPIRUN = find_mpirun()
ROOT = Path(__file__).resolve().parents[2]
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
sizes = pytest.mark.parametrize("n", [2, full(3)])
START, END = 20.0, 5.0  # seconds: for mpirun and the imports; after the fault
SHORT = 0.3  # seconds to wait for ranks that never come

PRELUDE = """
import os, sys, threading, time
import numpy as np
import minitrain
from minitrain import UserError
from minitrain.runtime.launch import launch

def fault(rank):  # says when, so that the test measures from here
    if world.rank == rank:
        print("fault at", time.time(), flush=True)
    return world.rank == rank

def wait():  # as ranks wait in a training step: in a collective that one of them never joins
    world.all_reduce(x, ("dp", "test"))

with launch() as world:
    print("pid", os.getpid(), flush=True)
    x = np.ones(3)
    world.barrier()
"""


@dataclass
class Ended:
    status: int
    output: str
    seconds: float  # since the first fault, or since the start


def run(command: list[str], env: dict[str, str] | None = None) -> Ended:
    """Run a command, which must end in time and leave no rank running."""
    began = time.time()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    try:
        output, _ = process.communicate(timeout=START)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=10)
        pytest.fail(f"no end after {START:.0f} s; its output:\n{output}")
    ended = time.time()
    faults = [float(when) for when in re.findall(r"fault at ([\d.]+)", output)]
    left = [pid for pid in map(int, re.findall(r"pid (\d+)", output)) if alive(pid)]
    assert not left, f"processes {left} are still there"
    return Ended(process.returncode, output, ended - min(faults, default=began))


def alive(pid: int) -> bool:
    """Return whether the process still runs after a moment in which it may exit."""
    for _ in range(20):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self/stat").exists() else ""
        except (ProcessLookupError, FileNotFoundError):
            return False
        if ") Z " in state:  # a zombie that init has not reaped yet
            return False
        time.sleep(0.05)
    return True


def job(n: int, body: str, patience: float = abort.PATIENCE) -> Ended:
    """Run PRELUDE and body under mpirun. patience: how long a rank that leaves early waits for the others."""
    assert MPIRUN is not None
    speaker = min(launch.SPEAKER, patience)
    change = f"abort.PATIENCE, module.SPEAKER = {patience}, {speaker}\n"
    program = (
        "from minitrain.runtime import abort, launch as module\n"
        + change
        + PRELUDE
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return run([MPIRUN, "-n", str(n), sys.executable, "-c", program])


@needs_mpirun
@sizes
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('if fault(1): raise ZeroDivisionError("the cause")\nwait()', "raised"),
        full('if fault(1): sys.exit("the cause")\nwait()', "called sys.exit('the cause')"),
        full('if fault(1): raise MemoryError("the cause")\nworld.receive(x, 1, ("dp", "test"))', "raised"),
        (
            """
            def work():
                raise ZeroDivisionError("the cause")
            if fault(1): threading.Thread(target=work, name="helper").start()
            wait()
            """,
            "raised in thread helper",
        ),
    ],
    ids=["exception", "sys.exit message", "in receive", "thread"],
)
def test_one_rank_fails(n: int, body: str, said: str) -> None:
    end = job(n, body)
    assert end.status != 0 and end.seconds < END
    assert f"rank 1 of {n} {said}" in end.output
    assert "Traceback (most recent call last)" in end.output and "the cause" in end.output


@needs_mpirun
@pytest.mark.full
@sizes
def test_a_thread_fails_while_its_rank_computes(n: int) -> None:
    end = job(
        n,
        """
        if fault(1): threading.Thread(target=lambda: 1 / 0, name="helper").start()
        while True: pass
        """,
    )
    assert end.status != 0 and end.seconds < END
    assert f"rank 1 of {n} raised in thread helper" in end.output and "ZeroDivisionError" in end.output


@needs_mpirun
@sizes
def test_sys_exit_with_a_status(n: int) -> None:
    end = job(n, "if fault(1): sys.exit(3)\nwait()")
    assert end.status == 3 and end.seconds < END
    assert f"rank 1 of {n} called sys.exit(3)" in end.output
    assert "Traceback" in end.output and "sys.exit(3)" in end.output


@needs_mpirun
@pytest.mark.parametrize(("n", "leave", "patience"), [(2, "sys.exit(0)", SHORT), full(3, "sys.exit()", abort.PATIENCE)])
def test_one_rank_leaves_as_if_all_were_well(n: int, leave: str, patience: float) -> None:
    end = job(n, f"if fault(1): {leave}\nwait()", patience)
    assert end.status != 0 and end.seconds < END
    assert f"rank 1 of {n} called" in end.output and "Traceback" in end.output


@needs_mpirun
@pytest.mark.full
def test_an_interrupt_is_no_mistake_to_be_traced() -> None:
    end = job(2, "if fault(1): raise KeyboardInterrupt\nwait()", SHORT)
    assert end.status != 0 and end.seconds < END
    assert "rank 1 of 2 was interrupted" in end.output and "Traceback" not in end.output


@needs_mpirun
@pytest.mark.full
def test_a_status_is_never_cut_to_0() -> None:
    """The system keeps 8 bits of the status, so 256 would look like success."""
    assert job(2, "if fault(1): sys.exit(256)\nwait()").status == 1


@needs_mpirun
def test_words_that_cannot_be_said_do_not_keep_the_job_alive() -> None:
    end = job(2, "if fault(1): sys.stderr.close(); sys.stdout.close(); raise ValueError\nwait()")
    assert end.status != 0 and end.seconds < END


@needs_mpirun
def test_a_rank_that_ends_early_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its final barrier is separate: the others continue, it waits, and the job succeeds when they finish."""
    body = "if world.rank == 0:\n    world.send(x, 1, ('a', 'b'), 1).wait()\nelse:\n    time.sleep(0.5)\n"
    end = job(2, body + "    world.receive(x, 0, ('a', 'b'), 1); print('received')")
    assert end.status == 0 and "received" in end.output


@needs_mpirun
@pytest.mark.full
def test_a_communication_thread_that_fails() -> None:
    body = """
    from minitrain.parallel.overlap import CommunicationThread
    if fault(1):
        CommunicationThread().submit(lambda: 1 / 0)
        time.sleep(30)
    wait()
    """
    end = job(2, textwrap.dedent(body))
    assert end.status != 0 and end.seconds < END
    assert "rank 1 of 2 raised in thread reduce" in end.output and "ZeroDivisionError" in end.output


@needs_mpirun
@sizes
def test_all_ranks_leave(n: int) -> None:
    end = job(n, "time.sleep(0.3 * world.rank); fault(0); sys.exit(0)")
    assert end.status == 0 and end.seconds < END
    assert "rank" not in end.output and "Traceback" not in end.output


@needs_mpirun
@sizes
def test_all_ranks_come_to_the_end(n: int) -> None:
    end = job(n, "wait(); print('done')")
    assert end.status == 0 and end.output.count("done") == n


@needs_mpirun
@sizes
def test_all_ranks_see_the_same_mistake(n: int) -> None:
    end = job(n, 'fault(0); raise UserError("--batch is 0; it must be at least 1")')
    assert end.status == 2 and end.seconds < END
    assert end.output.count("minitrain: error: --batch is 0; it must be at least 1\n") == 1
    assert end.output.count("--batch") == 1 and "Traceback" not in end.output
    assert "Abort" not in end.output  # MPI finalizes as usual and removes its files


@needs_mpirun
@pytest.mark.parametrize(
    ("n", "rank", "patience"),
    [(2, 1, SHORT), full(2, 0, SHORT), full(3, 0, abort.PATIENCE), full(3, 2, abort.PATIENCE)],
)
def test_one_rank_sees_a_mistake(n: int, rank: int, patience: float) -> None:
    end = job(n, f'if fault({rank}): raise UserError("no space on the disk")\nwait()', patience)
    assert end.status == 2 and end.seconds < END
    assert end.output.count("minitrain: error: no space on the disk\n") == 1 and "Traceback" not in end.output


@needs_mpirun
def test_a_rank_sees_a_mistake_when_the_other_has_come_to_the_end() -> None:
    end = job(2, 'if fault(1): raise UserError("no space on the disk")')
    assert end.status == 2 and end.seconds < END and "Abort" not in end.output
    assert end.output.count("minitrain: error: no space on the disk\n") == 1


@needs_mpirun
@pytest.mark.full
def test_a_thread_that_waits_does_not_keep_the_job_from_ending() -> None:
    """All ranks raise the same error while a collective of a helper thread on one rank is pending."""
    end = job(
        2,
        """
        line = world.duplicate()
        if world.rank == 0:
            threading.Thread(target=line.barrier, daemon=True).start()
            time.sleep(0.2)
        fault(0)
        raise UserError("a mistake")
        """,
    )
    assert end.status == 2 and end.seconds < END
    assert end.output.count("minitrain: error: a mistake\n") == 1


@needs_mpirun
@sizes
def test_all_ranks_raise(n: int) -> None:
    end = job(n, 'fault(0); raise ValueError("the cause")')
    assert end.status != 0 and end.seconds < END
    assert re.search(rf"rank \d of {n} raised", end.output) and "ValueError: the cause" in end.output


@needs_mpirun
def test_what_was_printed_before_the_fault_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    end = job(2, 'if fault(1): print("last words"); raise ValueError("the cause")\nwait()')
    assert "last words" in end.output


# Without mpirun ---------------------------------------------------------------------------------------------


def alone(body: str, env: dict[str, str] | None = None) -> Ended:
    """Run PRELUDE and body without mpirun."""
    program = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ")
    return run([sys.executable, "-c", program], env)


def test_the_name_under_which_it_is_documented() -> None:
    end = run([sys.executable, "-c", "import minitrain\nwith minitrain.launch() as world: print(world.size)"])
    assert end.status == 0 and end.output == "1\n", end.output


def test_without_mpirun_a_world_of_one() -> None:
    end = alone('assert (world.rank, world.size) == (0, 1); wait(); print("done")')
    assert end.status == 0 and "done" in end.output


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ('raise ValueError("the cause")', 1, "rank 0 of 1 raised"),
        ("sys.exit(3)", 3, "rank 0 of 1 called sys.exit(3)"),
        ("sys.exit(0)", 0, ""),
        ('raise UserError("a mistake")', 2, "minitrain: error: a mistake"),
        ("threading.Thread(target=lambda: 1 / 0).start(); time.sleep(30)", 1, "raised in thread"),
    ],
)
def test_faults_of_a_world_of_one(body: str, status: int, said: str) -> None:
    end = alone(body)
    assert end.status == status and said in end.output and end.seconds < START
    assert ("Traceback" in end.output) == (status in (1, 3))


# The mpirun of another MPI ----------------------------------------------------------------------------------


def test_matching_world_sizes() -> None:
    launch.check_world_size("", 1, 1, "MPICH Version: 5.0")
    launch.check_world_size("MPICH", 4, 4, "MPICH Version: 5.0")


def test_foreign_mpirun_is_named_with_both_sides() -> None:
    with pytest.raises(UserError) as error:
        launch.check_world_size("Open MPI", 4, 1, "MPICH Version:      5.0.2\nMPICH Release date: today")
    beside = str(Path(sys.executable).parent / "mpirun")
    for part in ("Open MPI", "started 4 ranks", "MPICH", "sees 1", beside, "doctor"):
        assert part in str(error.value)


@pytest.mark.parametrize("n", [1, 3])
def test_mpich_under_the_mpirun_of_openmpi_is_named_before_mpi_begins(n: int) -> None:
    """MPI_Init would end the process with its own message."""
    with pytest.raises(UserError, match=rf"mpirun \(Open MPI\) started {n} ranks.*\(MPICH.*different MPIs"):
        launch.check_families("Open MPI", n, "MPICH Version:      5.0.2")
    launch.check_families("Open MPI", n, "Open MPI v5.0.11, package: Open MPI")
    launch.check_families("MPICH", n, "MPICH Version:      5.0.2")
    launch.check_families("", n, "MPICH Version:      5.0.2")


@pytest.mark.parametrize(("command", "rank"), [("train", 1), full("train", 0), full("program", 0), full("program", 1)])
def test_started_by_a_foreign_mpirun(command: str, rank: int, tmp_path: Path) -> None:
    """Simulate Open MPI's mpirun starting two processes that use MPICH's library, or the reverse."""
    ask = "from mpi4py import MPI; print(MPI.Get_library_version())"
    library = run([sys.executable, "-c", ask]).output
    here, foreign = ("Open MPI", "MPICH") if "Open MPI" in library else ("MPICH", "Open MPI")
    variables = {family: names for family, *names in LAUNCHERS}
    env = dict(zip(variables[foreign], [str(rank), "2"], strict=True))
    if command == "program":
        end = alone("print('trained')", env)
    else:
        end = run([sys.executable, "-m", "minitrain", "train", "--out", str(tmp_path / "run")], env)
    assert end.status == 2 and "Traceback" not in end.output, end.output
    assert "trained" not in end.output and not (tmp_path / "run").exists()
    for part in (f"error: mpirun ({foreign}) started 2 ranks", f"({here}", "sees 1", "different MPIs"):
        assert part in end.output, end.output


# Doctor -----------------------------------------------------------------------------------------------------


@needs_mpirun
def test_doctor() -> None:
    end = run([sys.executable, "-m", "minitrain", "doctor"], {"COLUMNS": "80"})
    assert end.status == 0, end.output
    assert "mpirun -n 2 works" in end.output and "FAIL" not in end.output
    wide = [line for line in end.output.splitlines() if len(line) > 80]
    assert not wide, wide


@pytest.mark.parametrize("error", [full("ValueError"), "UserError", full("KeyboardInterrupt")])
def test_in_a_notebook_an_exception_stays_an_exception(error: str) -> None:
    """Without ranks, a prompt or notebook (both set sys.ps1) gets the exception; otherwise the process exits."""
    program = """
import sys
import minitrain
from minitrain import UserError
{prompt}
try:
    with minitrain.launch() as world:
        raise {error}("spoiled")
except {error} as error:
    print("kept", error)
except SystemExit as error:
    print("ended", error.code)
"""
    for prompt, expected in (("sys.ps1 = 'In : '", "kept spoiled"), ("", "ended ")):
        ended = run([sys.executable, "-c", program.format(prompt=prompt, error=error)])
        assert expected in ended.output and ended.status == 0, ended.output
    wait = program.replace("launch()", "launch(wait=-1)").format(prompt="sys.ps1 = '>>> '", error="UserError")
    assert "kept wait is -1" in run([sys.executable, "-c", wait]).output
