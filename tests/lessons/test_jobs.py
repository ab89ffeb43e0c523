"""Jobs that end, fail, hang, or leave processes behind."""

import os
import subprocess
import sys
import time

import pytest

from minitrain.lessons import jobs
from minitrain.lessons.jobs import clean, job, running, within

SAYS = "import os, sys, time; print('rank 0 is process', os.getpid(), flush=True); "


def run(program: str, patience: float = 0.3) -> jobs.Job:
    return job([sys.executable, "-c", SAYS + program], os.environ, "sign", patience)


def test_a_job_that_ends() -> None:
    ended = run("sys.exit('the sign and the reason')", patience=10.0)
    assert (ended.status, ended.seen, ended.left) == (1, 1, 0)
    assert "the sign and the reason" in ended.output


def test_a_job_that_hangs_is_ended_so_long_after_the_sign() -> None:
    began = time.monotonic()
    hung = run("time.sleep(0.5); print('sign', flush=True); time.sleep(60)")
    assert (hung.status, hung.seen, hung.left) == (None, 1, 0)
    assert 0.8 <= time.monotonic() - began < 20


@pytest.mark.full
def test_without_the_sign_it_is_ended_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "START", 0.5)
    hung = run("time.sleep(60)")
    assert hung.status is None and "sign" not in hung.output


def test_one_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "END", 0.5)
    deaf = run("import signal; signal.signal(15, signal.SIG_IGN); print('sign', flush=True); time.sleep(60)")
    assert (deaf.status, deaf.left) == (None, 0)


@pytest.mark.full
def test_what_is_left_is_counted_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in its own session outlives the one that started it."""
    monkeypatch.setattr(jobs, "END", 0.5)
    child = "import subprocess; c = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    ended = run(child + "print('rank 1 is process', c.pid, flush=True)")
    assert (ended.status, ended.seen, ended.left) == (0, 2, 1)
    assert within(5, lambda: not running(int(ended.output.split()[-1])))


def test_a_process_that_nobody_asked_for_its_status_is_over() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert within(20, lambda: not running(process.pid))
    assert process.poll() == 0 and clean([process.pid]) == 0
