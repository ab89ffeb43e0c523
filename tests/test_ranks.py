"""The runner of rank-marked tests: each kind of failure is reported by name, and later tests still run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from minitrain.runtime.mpirun import find_mpirun
from tests.processes import processes
from tests.ranks import BARE
from tests.tiers import full

ROOT = Path(__file__).resolve().parent.parent
MARK = "MINITRAIN_TEST_OF_THE_RUNNER"  # in the environment of every process started by a run
pytestmark = pytest.mark.skipif(find_mpirun() is None, reason="there is no mpirun")

CONFTEST = "from tests.conftest import pytest_configure, pytest_generate_tests, world\n"

TESTS = """
import os, signal, sys, threading, time
import numpy as np
import pytest

three = pytest.mark.ranks(3, limit=10)

def wait(world):
    world.all_reduce(np.ones(3), ("dp", "test"))

@three
def test_one_rank_fails(world):
    assert world.rank != 1, "the cause"
    wait(world)

@three
def test_after_one_rank_fails(world):
    wait(world)

@three
def test_all_ranks_fail(world):
    print("printed by", world.rank)
    raise ValueError(f"the cause on {world.rank}")

@three
def test_after_all_ranks_fail(world):
    wait(world)

@pytest.mark.ranks(3, limit=2)
def test_one_rank_hangs(world):
    if world.rank == 2:
        stuck_here()
    wait(world)

def stuck_here():
    time.sleep(60)

@three
def test_after_one_rank_hangs(world):
    wait(world)

@three
def test_one_rank_is_killed(world):
    if world.rank == 0:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    wait(world)

@three
def test_after_one_rank_is_killed(world):
    wait(world)

@three
def test_one_rank_leaves(world):
    if world.rank == 1:
        os._exit(0)
    wait(world)

@three
def test_after_one_rank_leaves(world):
    wait(world)

@three
def test_sys_exit(world):
    if world.rank == 1:
        sys.exit(0)
    wait(world)

@three
def test_after_sys_exit(world):
    wait(world)

@pytest.fixture
def broken(world):
    if world.rank == 2:
        raise ValueError("the cause in the fixture")

@three
def test_a_fixture_fails(world, broken):
    wait(world)

@three
def test_after_a_fixture_fails(world):
    wait(world)

@three
def test_skips(world):
    pytest.skip("the reason to skip")

@three
def test_skipped_on_one_rank(world):
    if world.rank == 1:
        pytest.skip("the reason to skip")

@three
def test_after_skipped_on_one_rank(world):
    wait(world)

@pytest.mark.skipif(True, reason="the reason of the mark")
@three
def test_skipped_by_mark(world):
    pass

@three
def test_after_skips(world):
    wait(world)

@three
def test_folders_of_its_own(world, tmp_path):
    assert len(set(world.gather_objects(str(tmp_path)))) == world.size

@pytest.mark.parametrize("number", [5, 7])
@pytest.mark.ranks(1, 2)
def test_with_parameters(world, number):
    assert world.size in (1, 2)
    wait(world)

def test_an_ordinary_one():
    pass
"""


@dataclass
class Result:
    outcome: str
    text: str
    seconds: float


@dataclass
class Run:
    status: int
    output: str
    results: dict[str, Result]
    mark: str


@pytest.fixture
def folder() -> Iterator[Path]:
    """Create a folder below build/, where a conftest can name this repository's runner."""
    path = ROOT / "build" / f"test-of-the-runner-{os.getpid()}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "conftest.py").write_text(CONFTEST)
    yield path
    shutil.rmtree(path)


def start(folder: Path, tests: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a separate pytest on a file with these tests."""
    (folder / "test_these.py").write_text(tests)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, str(folder / "test_these.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**outside, **BARE, MARK: folder.name},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


def finish(process: subprocess.Popen[str], limit: float) -> str:
    try:
        return process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        output = process.communicate(timeout=20)[0]
        pytest.fail(f"no end after {limit:.0f} s:\n{output}")


def run(folder: Path, tests: str, *arguments: str) -> Run:
    """Return pytest's results of these tests, read from its JUnit file."""
    report = folder / "report.xml"
    process = start(folder, tests, f"--junitxml={report}", *arguments)
    output = finish(process, 120)
    results = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        state = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if state is None else state.tag
        text = "" if state is None else f"{state.get('message')}\n{state.text}"
        results[case.attrib["name"]] = Result(outcome, text, float(case.attrib["time"]))
    return Run(process.returncode, output, results, folder.name)


# test -> what its report contains
FAILS = {
    "one_rank_fails": ["AssertionError: the cause", "rank 1 of 3: failed", "rank 0 of 3: did not come", "in wait"],
    "all_ranks_fail": ["ValueError: the cause on 0", "cause on 1", "cause on 2", "printed by 2"],
    "one_rank_hangs": ["no end after 2 s", "rank 2 of 3", "last seen at", "in stuck_here", "in wait"],
    "one_rank_is_killed": ["the job ended", "rank 0 of 3: did not come back", "last seen at", "in wait"],
    "one_rank_leaves": ["rank 1 of 3: did not come back"],
    "sys_exit": ["rank 1 of 3: failed", "SystemExit"],
    "skipped_on_one_rank": ["do not agree", "rank 1 of 3: skipped"],
    "a_fixture_fails": ["the cause in the fixture", "rank 2 of 3: failed"],
}
SKIPS = {"skips": "the reason to skip", "skipped_by_mark": "the reason of the mark"}
FIRST = ["one_rank_fails", "one_rank_hangs", *SKIPS, "folders_of_its_own", "an_ordinary_one"]
LATER = [*(name for name in FAILS if name not in FIRST), "with_parameters"]


def test_every_kind_is_among_those_below() -> None:
    assert set(re.findall(r"def test_(?:after_)?(\w+)", TESTS)) == {*FIRST, *LATER}


@pytest.mark.full
@pytest.mark.parametrize("kinds", [FIRST, LATER], ids=["first", "later"])
def test_every_kind_of_failure(kinds: list[str], folder: Path) -> None:
    found = run(folder, TESTS, "-k", " or ".join(kinds))
    results = {name.removesuffix("[3 ranks]"): result for name, result in found.results.items()}
    assert found.status == 1, found.output
    for name in FAILS.keys() & kinds:
        result = results.pop(f"test_{name}")
        assert result.outcome == "failure", name
        for part in FAILS[name]:
            assert part in result.text, f"{name}: {part} is not in\n{result.text}"
        assert f"test_{name}[3 ranks]" in found.output
        assert result.seconds < (2 if name == "one_rank_hangs" else 10) + 5, name
        assert results.pop(f"test_after_{name}").outcome == "passed", name
    for name in SKIPS.keys() & kinds:
        result = results.pop(f"test_{name}")
        assert result.outcome == "skipped" and SKIPS[name] in result.text
    assert [result.outcome for result in results.values()] == ["passed"] * (3 if kinds is FIRST else 4)
    assert processes("environ", f"{MARK}={found.mark}") == []


def test_one_job_for_all_tests_of_a_size(folder: Path) -> None:
    """Three tests run in the same two processes."""
    tests = """
import os
import pytest

@pytest.mark.ranks(2)
@pytest.mark.parametrize("number", range(3))
def test_job(world, number):
    with open(PATH, "a") as file:
        file.write(f"{os.getpid()} ")
"""
    seen = folder / "seen"
    found = run(folder, tests.replace("PATH", repr(str(seen))))
    assert found.status == 0, found.output
    assert len(found.results) == 3 and len(set(seen.read_text().split())) == 2


def test_ordinary_tests_before_and_after(folder: Path) -> None:
    """A process of several that share the tests ends the fixtures of a file before tests under mpirun, and goes on."""
    before = """
import pytest

@pytest.fixture(scope="module")
def prepared():
    yield
    open(PATH, "a").write("ended ")

@pytest.mark.parametrize("number", range(3))
def test_before(number, prepared):
    pass

@pytest.mark.ranks(2)
@pytest.mark.parametrize("number", range(2))
def test_job(world, number):
    if world.rank == 0:
        open(PATH, "a").write("job ")
"""
    seen = folder / "seen"
    (folder / "test_after.py").write_text("def test_after():\n    pass\n")
    one = ["-p", "xdist", "-n", "1", str(folder / "test_after.py")]
    found = run(folder, before.replace("PATH", repr(str(seen))), *one)
    assert found.status == 0, found.output
    assert len(found.results) == 6 and seen.read_text() == "ended job job "


@pytest.mark.parametrize("ranks", ["(1,)", full("(0, 1)")], ids=["one rank", "all ranks"])
def test_a_file_that_ranks_cannot_import(ranks: str, folder: Path) -> None:
    """The cause is reported at once, for every test."""
    tests = """
import os
import pytest
from minitrain.environment import launched

if "MINITRAIN_TEST_JOB" in os.environ and launched()[1] in RANKS:
    raise ImportError("the cause at import")

@pytest.mark.ranks(2)
@pytest.mark.parametrize("number", range(2))
def test_something(world, number):
    pass
"""
    found = run(folder, tests.replace("RANKS", ranks))
    assert len(found.results) == 2
    for result in found.results.values():
        assert result.outcome == "failure" and "the cause at import" in result.text
        assert result.seconds < 10
    assert processes("environ", f"{MARK}={found.mark}") == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("sent", "shared"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["-p", "xdist", "-n", "2"])]
)
def test_nothing_is_left_over_after_an_interrupt(sent: signal.Signals, shared: list[str], folder: Path) -> None:
    hang = """
import time
import pytest

@pytest.mark.ranks(2)
def test_hang(world):
    open(PATH, "a").write("x")
    time.sleep(60)
"""
    began = folder / "began"
    process = start(folder, hang.replace("PATH", repr(str(began))), *shared)
    deadline = time.monotonic() + 30
    while not (began.exists() and len(began.read_text()) == 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    output = finish(process, 15)
    assert "KeyboardInterrupt" in output
    assert processes("environ", f"{MARK}={folder.name}") == []
