"""Two tiers of tests: the quick ones, and everything.

    pytest             at most 4 minutes on two cores: run before every commit
    pytest --full      every test: run before a change is submitted

A second-tier test is marked `full`; `@pytest.mark.ranks(3, full=(2, 4))` gives that mark to the other numbers of ranks.
A test is marked because it is slow and a first-tier test covers the same property in another setting. The mark also
applies to selected files and folders; a test selected by name, with ::, always runs.
"""

from collections import Counter
from typing import Any

import pytest


def full(*values: object) -> object:
    """Mark these parameters of a test as second tier."""
    return pytest.param(*values, marks=pytest.mark.full)


class Tiers:
    """Skip the second tier unless --full is given, and list what was skipped at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.config.getoption("full", default=False):
            return
        named = [argument.partition("::")[2] for argument in self.config.args if "::" in argument]
        kept: list[pytest.Item] = []
        later: list[pytest.Item] = []
        for item in items:
            waits = item.get_closest_marker("full") and not any(name in item.nodeid for name in named)
            (later if waits else kept).append(item)
        self.left.update(folder_of(item) for item in later)
        self.config.hook.pytest_deselected(items=later)
        items[:] = kept

    def pytest_sessionfinish(self) -> None:
        """Tell the pytest that the user started, if this is one of its processes (tests/workers.py)."""
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["left"] = dict(self.left)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Receive what one of the processes left: each has collected the same tests."""
        self.left = Counter(getattr(node, "workeroutput", {}).get("left", {}))

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.left and not self.config.getoption("collectonly") and not hasattr(self.config, "workerinput"):
            where = ", ".join(f"{n} in {folder}" for folder, n in self.left.most_common())
            print(f"Left to `make test FULL=1`: {self.left.total()} tests: {where}")


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).parent.as_posix()
