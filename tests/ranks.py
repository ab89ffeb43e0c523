"""Tests under mpirun, started by a plain `pytest`.

    @pytest.mark.ranks(2, 3, 4)
    def test_sum(world): ...

is three tests; with ranks(3, full=(2, 4)) two of them belong to the second tier (tests/tiers.py). The first one with N
ranks starts `mpirun -n N python -m pytest`. Every rank of this job runs all tests for N ranks in order and writes their
results to its own file; the parent pytest reads these files and reports. A rank whose test fails aborts the job, since
the others may wait for it indefinitely. A job whose test exceeds its time limit is ended. In both cases the report
gives every rank's position, which a thread in each rank records all the time (a killed rank can no longer answer), and
the remaining tests run in a new job.
"""

import contextlib
import faulthandler
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from linecache import getline
from pathlib import Path
from typing import Any

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.comm.rank_positions import of_a_library
from minitrain.runtime.mpirun import find_mpirun

EVERY = "every test"
JOB = "MINITRAIN_TEST_JOB"  # the folder that a job's ranks and its parent share
LIMIT = 60.0  # seconds per test, overridden by its mark: ranks(2, limit=10)
START = 60.0  # seconds for mpirun and the imports
LAST_WORDS = 0.5  # seconds for the other ranks after one has failed
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other packages' plugins take longer to import than all the rest
UNDER_MPIRUN = re.compile(r"\d ranks\b")  # in the name of every test marked with ranks(...)
GLANCE = 0.05  # seconds between two records of a rank's position


def size_of(item: pytest.Item) -> int | None:
    """Return how many ranks this test needs; None for an ordinary test."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("world") if callspec is not None else None


def limit_of(item: pytest.Item) -> float:
    mark = item.get_closest_marker("ranks")
    return float(mark.kwargs.get("limit", LIMIT)) if mark else LIMIT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Create one test per number of ranks; those under `full` belong to the second tier (tests/tiers.py)."""
    mark = metafunc.definition.get_closest_marker("ranks")
    if mark:
        later = mark.kwargs.get("full", ())
        sizes = [*mark.args, *(pytest.param(n, marks=pytest.mark.full) for n in later)]
        metafunc.parametrize("world", sizes, indirect=True, ids=[f"{n} ranks" for n in (*mark.args, *later)])


# In the pytest that the user started ----------------------------------------------------------------------------------


class Parent:
    """Run jobs and report their results as if the tests had run in this process."""

    def __init__(self) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # termination ends the jobs, too
        self.jobs: dict[int, Job] = {}
        self.folders = 0

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Group tests by number of ranks, so that they share a job."""
        items.sort(key=lambda item: size_of(item) or 0)
        odd = [item.nodeid for item in items if size_of(item) is not None and not UNDER_MPIRUN.search(item.nodeid)]
        assert not odd, f"name these tests '... 3 ranks ...' as tests/workers.py expects: {odd}"
        self.items = items

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        size = size_of(item)
        if size is None:
            return None
        item.session._setupstate.teardown_exact(None)  # nobody else ends the fixtures of the ordinary test before
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.time()
        outcome, text = self.result(item, size)
        longrepr: Any = text or None
        if outcome == "skipped":
            longrepr = (str(item.path), 0, text)
        report = pytest.TestReport(
            item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, longrepr, "call",  # type: ignore[arg-type]
            duration=time.time() - began, start=began, stop=time.time(),
        )  # fmt: skip
        item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def result(self, item: pytest.Item, size: int) -> tuple[str, str]:
        """Return (outcome, explanation) of one test from the job of its size. Start a job if there is none."""
        mpirun = find_mpirun()
        if mpirun is None:
            return "skipped", "there is no mpirun"
        job = self.jobs.get(size)
        if job is None or job.over:
            rest = [i for i in self.items if size_of(i) == size]
            self.folders += 1
            folder = Path(item.config.rootpath, "build", "ranks", f"{os.getpid()}-{self.folders}")
            job = self.jobs[size] = Job(mpirun, size, rest[rest.index(item) :], folder, item.config.rootpath)
        return job.result(item)

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        for job in self.jobs.values():
            job.end()
            if not job.failed:
                shutil.rmtree(job.folder, ignore_errors=True)


class Job:
    """One mpirun that runs several tests."""

    def __init__(self, mpirun: str, size: int, items: list[pytest.Item], folder: Path, root: Path) -> None:
        self.size, self.folder = size, folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tests.json").write_text(json.dumps([item.nodeid for item in items]))
        files = sorted({str(item.path) for item in items})
        quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:logging"]
        quiet += ["-o", "addopts=--import-mode=importlib"]
        command = [mpirun, "-n", str(size), sys.executable, "-m", "pytest", *quiet, "--rootdir", str(root), *files]
        self.output = (folder / "output.txt").open("w")
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=root,
            env={**os.environ, **BARE, JOB: str(folder)}, start_new_session=True,
        )  # fmt: skip
        self.over = self.failed = False

    def result(self, item: pytest.Item) -> tuple[str, str]:
        """Wait for the test. End the job unless all ranks passed."""
        deadline: float = time.monotonic() + START
        started = False
        while True:
            ended = self.process.poll() is not None  # before reading, so that no record is missed
            records = self.records(item.nodeid)
            done = [r for r in records if "outcome" in r]
            if not started and records:
                started, deadline = True, time.monotonic() + limit_of(item)
            outcomes = {r["outcome"] for r in done}
            if len(done) == self.size and len(outcomes) == 1 and "failed" not in outcomes:
                return done[0]["outcome"], done[0]["text"]
            if len(done) == self.size and len(outcomes) > 1:
                return self.fail(item, "the ranks do not agree")
            if ended or "failed" in outcomes:
                self.wait(LAST_WORDS)
                return self.fail(item, f"the job ended ({self.status()})")
            if time.monotonic() > deadline:
                what = f"no end after {limit_of(item):.0f} s" if started else f"mpirun did not start in {START:.0f} s"
                return self.fail(item, what)
            time.sleep(0.01)

    def wait(self, seconds: float) -> bool:
        """Return whether mpirun, and so every rank, exits within this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def fail(self, item: pytest.Item, what: str) -> tuple[str, str]:
        """End the job. Keep its folder for diagnosis."""
        self.end()
        self.failed = True
        return "failed", self.explain(self.records(item.nodeid), what)

    def records(self, nodeid: str) -> list[dict]:
        """Return the ranks' records of a test, or of all tests: its start and its outcome."""
        found: list[dict] = []
        wanted = tuple(f'{{"test": {json.dumps(test)}, ' for test in (nodeid, EVERY))
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            lines = path.read_text().split("\n")[:-1]  # the last piece is an incomplete line
            mine = [line for line in lines if line.startswith(wanted)]
            found += map(json.loads, mine[-1:])
        return found

    def explain(self, records: list[dict], what: str) -> str:
        """Describe each rank's failure, or how far it came."""
        parts = []
        for rank in range(self.size):
            mine = next((r for r in records if r["rank"] == rank), None)
            state = "had not begun" if mine is None else mine.get("outcome", "did not come back")
            text = mine["text"] if mine and mine.get("text") else ""
            seen = self.folder / f"rank-{rank}.seen"
            place = "" if state == "passed" or not seen.exists() else f"last seen at\n{seen.read_text()}"
            parts.append(f"--- rank {rank} of {self.size}: {state}\n{text}{place}")
        output = (self.folder / "output.txt").read_text()[-3000:]
        return f"{what}\n" + "\n".join(parts) + f"\n--- output of mpirun\n{output}"

    def status(self) -> str:
        return f"status {self.process.poll()}"

    def end(self) -> None:
        """End mpirun and, if it leaves any, its ranks."""
        if self.over:
            return
        self.over = True
        if not self.wait(0.5):
            self.process.terminate()
            if not self.wait(5):
                self.process.kill()
                self.process.wait()
                for path in self.folder.glob("rank-*.pid"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(path.read_text()), signal.SIGKILL)
        self.output.close()


def places_in(text: str, thread: int) -> list[tuple[str, int, str]]:
    """Return the (file, line, function) of each frame of a thread, innermost last, as faulthandler wrote them."""
    part = text.partition(f"0x{thread:016x} (most recent call first):\n")[2].partition("\n\n")[0]
    found = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', part, re.MULTILINE)
    return [(file, int(line), name) for file, line, name in reversed(found)]


# In each rank ---------------------------------------------------------------------------------------------------------


class Rank:
    """Run the listed tests in order, with all ranks in step, and record the outcomes."""

    def __init__(self) -> None:
        from mpi4py import MPI

        from minitrain.comm.mpi import MPICommunicator
        from minitrain.runtime import leftover_files

        self.abort = MPI.COMM_WORLD.Abort
        self.world = MPICommunicator(MPI.COMM_WORLD)
        self.between = self.world.duplicate()  # keeps the tests' messages apart from the runner's barriers
        leftover_files.unlink_own()  # an aborted job would leave them in shared memory
        self.folder = Path(os.environ[JOB])
        self.file = self.folder / f"rank-{self.world.rank}"
        self.file.with_suffix(".pid").write_text(str(os.getpid()))
        self.log = self.file.with_suffix(".jsonl").open("w")
        threading.Thread(target=self.watch, args=(threading.main_thread().ident,), daemon=True).start()

    def watch(self, thread: int) -> None:
        """Record the main thread's position repeatedly.

        faulthandler looks at all of its frames in one go. To walk them in Python has crashed Python 3.11 on a busy
        machine, where the thread goes on in the middle of it.
        """
        before, page = "", os.open(self.file.with_suffix(".stack"), os.O_RDWR | os.O_CREAT)
        while True:
            time.sleep(GLANCE)
            os.ftruncate(page, 0)
            os.lseek(page, 0, os.SEEK_SET)
            faulthandler.dump_traceback(page)
            text = os.pread(page, os.fstat(page).st_size, 0).decode(errors="replace")
            ours = [place for place in places_in(text, thread) if not of_a_library(place[0])]
            now = "".join(f"  {file}:{n} in {name}: {getline(file, n).strip()}\n" for file, n, name in ours[-8:])
            if now != before:
                self.file.with_suffix(".new").write_text(now)
                self.file.with_suffix(".new").replace(self.file.with_suffix(".seen"))
                before = now

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.basetemp = str(self.folder / f"tmp-{self.world.rank}")

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        wanted = {nodeid: i for i, nodeid in enumerate(json.loads((self.folder / "tests.json").read_text()))}
        items[:] = sorted((i for i in items if i.nodeid in wanted), key=lambda item: wanted[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.between.barrier()
        self.outcome, self.text = "passed", ""
        self.write(item.nodeid)
        result = yield
        self.write(item.nodeid, outcome=self.outcome, text=self.text)
        if self.outcome == "failed":
            self.give_up()
        return result

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Fail every test of a file that cannot be imported, at once."""
        if report.failed:
            self.write(EVERY, outcome="failed", text=report.longreprtext)
            self.give_up()

    def give_up(self) -> None:
        time.sleep(0.3)  # let the other ranks record their failures, too
        self.abort(1)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.outcome, self.text = "skipped", report.longrepr[2]
        elif report.failed:
            output = "".join(f"\n{title}\n{text}" for title, text in report.sections)
            self.outcome, self.text = "failed", f"{report.longreprtext}{output}"

    def write(self, test: str, **result: str) -> None:
        self.log.write(json.dumps({"test": test, "rank": self.world.rank, **result}) + "\n")
        self.log.flush()


class Here:
    """Holds the `world` fixture's communicator, set by `Rank`."""

    rank: Rank | None = None


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Communicator:
    """All ranks of this job."""
    assert Here.rank is not None, "a test that takes `world` needs the mark: @pytest.mark.ranks(2, 3, 4)"
    assert Here.rank.world.size == request.param
    return Here.rank.world
