"""Two tiers of tests: what everybody waits for, and everything.

    pytest             at most 4 minutes on two cores: what is run before every commit
    pytest --full      every test: what is run before a change is handed in

A test of the second tier only carries the mark `full`; `@pytest.mark.ranks(3, full=(2, 4))` gives its other numbers of
ranks that mark. It stands there because it is slow, and because a test of the first tier protects the same property in
another setting. Files and folders are narrowed as well; a test that is named by itself, with ::, runs in any case.
"""

from collections import Counter

import pytest


def full(*values: object) -> object:
    """These parameters of a test, in the second tier only."""
    return pytest.param(*values, marks=pytest.mark.full)


class Tiers:
    """Leaves out the second tier unless it is asked for, and says at the end what that was."""

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

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.left and not self.config.getoption("collectonly"):
            where = ", ".join(f"{n} in {folder}" for folder, n in self.left.most_common())
            print(f"Left to `make test FULL=1`: {self.left.total()} tests: {where}")


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).parent.as_posix()
