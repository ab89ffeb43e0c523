"""Runs that are killed or signalled, and resumed, end as those that are not. `python -m tests.kill --all` does more."""

from collections.abc import Iterator

import pytest

from minitrain.runtime.mpirun import find_mpirun
from tests.kill import resumes
from tests.kill.jobs import leaving_no_files
from tests.tiers import full

needs_mpirun = pytest.mark.skipif(find_mpirun() is None, reason="there is no mpirun")
QUICK = ("serial", "SIGTERM to mpirun")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Remove what killed jobs leave in shared memory."""
    with leaving_no_files():
        yield


@needs_mpirun
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else full(name)
        for name in ("serial", "ZeRO-2, in the background", "fp16, half weights, ZeRO-2")
    ],
)
def test_a_killed_run_goes_on_with_the_same_bits(name: str) -> None:
    assert resumes.resumed(name) == []


@needs_mpirun
@pytest.mark.parametrize("name", [name if name in QUICK else full(name) for name in list(resumes.SIGNALS)[::3]])
def test_a_run_that_is_sent_a_signal_saves_first(name: str) -> None:
    assert resumes.signalled(name, resumes.family()) == []


@needs_mpirun
@pytest.mark.full
def test_kills_lose_no_checkpoint() -> None:
    for done, wrong in resumes.killed_often(seed=5, count=5, ranks=2):
        assert not wrong, done
