"""The second tier is skipped, mentioned at the end, and run on request."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import BARE
from tests.tiers import full

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
from tests.tiers import full

@pytest.mark.parametrize("number", [1, full(2), 3])
def test_some(number):
    pass

@pytest.mark.full
def test_later():
    pass
"""


@pytest.fixture
def file() -> Iterator[Path]:
    folder = ROOT / "build" / f"test-of-the-tiers-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conftest.py").write_text("from tests.conftest import pytest_addoption, pytest_configure\n")
    (folder / "test_these.py").write_text(TESTS)
    yield folder / "test_these.py"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("arguments", "counts", "last"),
    [
        ([], "2 passed, 2 deselected", "Left to `make test FULL=1`: 2 tests: 2 in build/"),
        (["-p", "xdist", "-n", "2"], "2 passed", "Left to `make test FULL=1`: 2 tests: 2 in build/"),
        (["--full"], "4 passed", "4 passed"),
        full(["--full", "-m", "full"], "2 passed, 2 deselected", "2 passed"),
        (["::test_later"], "1 passed", "1 passed"),
    ],
)
def test_what_is_run(arguments: list[str], counts: str, last: str, file: Path) -> None:
    named = arguments.pop() if arguments and arguments[0].startswith("::") else ""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, f"{file}{named}"],
        cwd=ROOT, env={**os.environ, **BARE}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts in done.stdout and done.stdout.splitlines()[-1].startswith(last), done.stdout
