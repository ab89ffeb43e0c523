"""`pytest` runs everything. A test marked `ranks`, which takes `world`, runs under mpirun: see tests/ranks.py."""

import os

import pytest

from tests import ranks
from tests.ranks import pytest_generate_tests, world

__all__ = ["pytest_generate_tests", "world"]


def pytest_configure(config: pytest.Config) -> None:
    """This process is either the pytest that somebody started, or a rank that it started."""
    if ranks.JOB in os.environ:
        ranks.Here.rank = ranks.Rank()
        config.pluginmanager.register(ranks.Here.rank)
    else:
        config.pluginmanager.register(ranks.Parent())
