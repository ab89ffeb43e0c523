"""What several files share: a nursery, which forks processes for functions that run apart from their check, and the
verdicts on solutions that hang."""

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from minitrain.lessons.apart import Nursery
from minitrain.lessons.check import Verdict
from tests.lessons import together
from tests.lessons.together import parameters


@pytest.fixture(scope="session")
def started() -> Iterator[Nursery]:
    with together.nursery() as nursery:
        yield nursery


@pytest.fixture
def nursery(started: Nursery) -> Iterator[Nursery]:
    """End the test's processes: an exception may keep their pipes open, of which there can be a thousand."""
    yield started
    gc.collect()


@pytest.fixture(scope="session")
def hangs(request: pytest.FixtureRequest) -> Iterator[Future[dict[tuple[str, Path], Verdict]] | None]:
    """Check the solutions of all selected tests that hang, in a process that mostly waits."""
    wanted = {(given["exercise"].id, given["mutant"].path) for given in parameters(request) if "mutant" in given}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool.submit(together.hung, sorted(wanted)) if wanted else None
