"""Runs that are killed or signalled, and resumed, end as those that are not. `python -m tests.kill --all` does more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from minitrain.runtime.mpirun import find_mpirun
from tests.kill import kills, resumes, signals
from tests.kill.jobs import cleaned

needs_mpirun = pytest.mark.skipif(find_mpirun() is None, reason="there is no mpirun")
RESUMED = ("ZeRO-2, in the background", "fp16, half weights, ZeRO-2")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Remove what killed jobs leave in shared memory."""
    with cleaned():
        yield


def test_a_killed_run_goes_on_with_the_same_bits() -> None:
    assert resumes.resumed("serial, one-cycle") == []


@needs_mpirun
@pytest.mark.full
@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_run_of_several_ranks_does_so_too(name: str) -> None:
    assert resumes.resumed(name) == []


@needs_mpirun
@pytest.mark.full
@pytest.mark.parametrize("name", ["SIGTERM to rank 1 only"])
def test_a_run_that_is_sent_a_signal_saves_first(name: str, tmp_path: Path) -> None:
    assert signals.Signalled(tmp_path).once(name) == []


@needs_mpirun
@pytest.mark.full
@pytest.mark.parametrize("how", ["a blocked rank"])
def test_a_second_signal_ends_a_run_at_once(how: str, tmp_path: Path) -> None:
    assert signals.Signalled(tmp_path).twice(how) == []


@needs_mpirun
@pytest.mark.full
def test_kills_lose_no_checkpoint() -> None:
    for done, wrong in kills.killed_often(seed=5, ranks=2, every=1, options="", count=5):
        assert not wrong, done
