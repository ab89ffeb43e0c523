"""Which tests execute a line: one run of all tests under coverage.py, kept in build/mutation/covering.json.

    python -m tests.mutation.covering          a quarter of an hour on two cores

Every process writes down (test, file, line): the test that was running, for a process that a test has started the test
that started it. A line that is executed when its module is imported has no test.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutation"
RECORDED = BUILD / "covering.json"
SETTINGS = f"""
[run]
parallel = True
sigterm = True
source = {ROOT}/minitrain
data_file = {BUILD}/coverage/data
context = ${{PYTEST_CURRENT_TEST-}}
"""
STARTS = "import coverage\ncoverage.process_startup()\n"  # in every process
MARKS = """
import coverage
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    coverage.Coverage.current().switch_context(item.nodeid)
"""
Covering = dict[str, dict[int, list[str]]]  # file -> line -> tests, as pytest is told to run them


def record() -> Covering:
    """Run all tests, and return and keep what they execute. Tests may fail: coverage makes them slow."""
    folder = BUILD / "coverage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "settings").write_text(SETTINGS)
    (folder / "sitecustomize.py").write_text(STARTS)
    (folder / "marks.py").write_text(MARKS)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    hooks = {"PYTHONPATH": path, "COVERAGE_PROCESS_START": str(folder / "settings"), "PYTEST_PLUGINS": "marks"}
    command = [sys.executable, "-m", "pytest", "--full", "-q", "-p", "no:cacheprovider", "--tb=no"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **hooks})
    found = collected(folder)
    RECORDED.write_text(json.dumps(found))
    return found


def collected(folder: Path) -> Covering:
    """Return what the processes have written."""
    import coverage

    covering: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in folder.glob("data.*"):
        data = coverage.CoverageData(str(path))
        try:
            data.read()
        except coverage.exceptions.DataError:  # of a process that was killed as it wrote
            continue
        for file in data.measured_files():
            for line, contexts in data.contexts_by_lineno(file).items():
                covering[str(Path(file).relative_to(ROOT))][line] |= {*filter(None, map(running, contexts))}
    return {file: {line: sorted(tests) for line, tests in lines.items()} for file, lines in covering.items()}


def running(context: str) -> str:
    """Return the test of a context, "of the process|now", as in "tests/a/test_b.py::test_c"; "" for none.

    Of a process that a test started, the first is that test.
    """
    found = re.findall(r"tests/[\w/]+\.py::\w+", context)
    return found[-1] if found else ""


def recorded() -> Covering:
    """Return what was recorded; empty if nothing was."""
    if not RECORDED.exists():
        return {}
    return {file: {int(n): t for n, t in lines.items()} for file, lines in json.loads(RECORDED.read_text()).items()}


def reaching(covering: Covering, file: str, line: int) -> list[str]:
    """Return the tests that execute the statement on this line, or the head of a block; empty if that is not known.

    It is not known for what an import executes: any test may depend on it.
    """
    lines, numbers = covering.get(file, {}), statement(ROOT / file, line)
    found = {test for number in numbers for test in lines.get(number, [])}
    return sorted(test for test in found if (ROOT / test.partition("::")[0]).exists())


def statement(path: Path, line: int) -> Iterable[int]:
    """Return the lines of a function's smallest statement on this line, of a block only those of its head.

    Return none for a line outside of functions.
    """
    best = range(0)
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in (inner for statement in function.body for inner in ast.walk(statement)):
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
                if node.lineno <= line <= end:
                    best = range(node.lineno, end + 1)
    return best


if __name__ == "__main__":
    lines = record()
    print(f"{sum(map(len, lines.values()))} lines of {len(lines)} files: {RECORDED}")
