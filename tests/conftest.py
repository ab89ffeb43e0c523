"""Set up `pytest`: the first tier, or everything with --full (tests/tiers.py); some on ranks (tests/ranks.py)."""

import gc
import os
import signal

import pytest

from minitrain import blas
from tests import ranks
from tests.ranks import pytest_generate_tests, world
from tests.tiers import Tiers

__all__ = ["pytest_generate_tests", "world"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run every test, those of the second tier (mark: full) too")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugins of a pytest started by the user, or of a rank that it started."""
    gc.disable()  # until the tests are collected, which makes much and drops little
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, also by what a test starts
    blas.SMALL = 1  # if another BLAS than NumPy's is in use, it gets the tests' small products, too
    if ranks.JOB in os.environ:
        ranks.Here.rank = ranks.Rank()
        config.pluginmanager.register(ranks.Here.rank)
    else:
        draw_the_same()
        if config.pluginmanager.hasplugin("xdist"):
            from tests import workers

            config.pluginmanager.register(workers)
        config.pluginmanager.register(Tiers(config))
        config.pluginmanager.register(ranks.Parent())


def draw_the_same() -> None:
    """Make hypothesis draw the same examples in every run, so that a failure is reproducible.

    Use --hypothesis-profile=random for new examples. (Imported here because the ranks of a job do not need it.)
    """
    from hypothesis import settings

    from tests.examples import leave_numpy_alone

    leave_numpy_alone()
    settings.register_profile("the same", derandomize=True, database=None, deadline=None)
    settings.register_profile("random", database=None, deadline=None)
    if settings.get_current_profile_name() == "default":
        settings.load_profile("the same")


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of every garbage collection, which they would slow down.

    Collect less often than by default: what tests leave behind are few and small cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
