"""A nursery, which forks a process for each function that runs apart from its check."""

import gc
from collections.abc import Iterator

import pytest

from minitrain.lessons.apart import Nursery
from tests.lessons import together


@pytest.fixture(scope="session")
def started() -> Iterator[Nursery]:
    with together.nursery() as nursery:
        yield nursery


@pytest.fixture
def nursery(started: Nursery) -> Iterator[Nursery]:
    """End the test's processes: an exception may keep their pipes open, of which there can be a thousand."""
    yield started
    gc.collect()
