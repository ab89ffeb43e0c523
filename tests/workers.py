"""Two or more pytest processes that share the tests, with pytest-xdist: `pytest -n 2`, and `make test`.

All tests of a file run in one process, since they share what takes long to prepare. So do all tests under mpirun: they
share jobs (tests/ranks.py), and two jobs at a time would only slow each other down.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.ranks import UNDER_MPIRUN


class WholeFiles(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return "under mpirun" if UNDER_MPIRUN.search(nodeid) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> WholeFiles:
    return WholeFiles(config, log)
