"""Mutation testing: change the library in one place, run the tests, and see whether one fails.

    python -m tests.mutation --count 100 --seed 1

picks 100 different lines of the files below and changes one thing on each. Each mutant meets the tests of its own file,
then those of `make test`, then those that only `make test FULL=1` runs, up to the first failure. The survivors are
printed at the end: either a test is missing, or the change makes no difference. tests/mutation/equivalent.py explains
the latter.

Of the tests of a tier, only those run that execute the changed statement, once `python -m tests.mutation.covering` has
recorded which do (a quarter of an hour): a hundred mutants then take half an hour instead of several hours. For a
statement that no test is known to execute, and one that more than 300 do, all tests run.

Each result is written immediately to build/mutation/seed-1.jsonl. The same command resumes an interrupted run.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation.covering import Covering, reaching, recorded
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutation"
ROOMS = ("parallel", "optim", "precision")
FILES = [
    str(path.relative_to(ROOT)) for room in ROOMS for path in sorted((ROOT / "minitrain" / room).glob("[a-z]*.py"))
]
FILES += [
    f"minitrain/{name}.py"
    for name in ("tensor", "autograd", "fused", "attention", "gelu", "losses")
    + ("comm/ring", "comm/mpi", "comm/communicator")
    + (
        "train/checkpoint",
        "train/trainer",
        "train/trainer_arguments",
        "train/nonfinite",
        "train/validation",
        "data/loader",
    )
]
ELSEWHERE = {  # files whose tests do not mirror their path
    "minitrain/attention.py": "tests/test_fused.py",
    "minitrain/gelu.py": "tests/test_fused.py",
    "minitrain/losses.py": "tests/test_fused.py",
    "minitrain/parallel/data_parallel.py": "tests/equivalence/test_data_parallel.py",
    "minitrain/parallel/sequence_parallel.py": "tests/parallel/test_tensor_parallel.py",
    "minitrain/parallel/vocabulary.py": "tests/parallel/test_tensor_parallel.py",
    "minitrain/parallel/divided_layers.py": "tests/parallel/test_own_models.py",
    **dict.fromkeys(
        (f"minitrain/parallel/{name}.py" for name in ("pipeline_simulation", "instructions", "zero_bubble")),
        "tests/parallel/test_pipeline_schedules.py",
    ),
    "minitrain/parallel/plan.py": "tests/parallel/test_own_models.py",
    "minitrain/parallel/held_parameters.py": "tests/parallel/test_own_models.py",
    "minitrain/parallel/plan_checks.py": "tests/parallel/test_own_models.py",
    "minitrain/parallel/border_checks.py": "tests/parallel/test_own_models.py",
    "minitrain/parallel/division_checks.py": "tests/parallel/test_own_models.py",
    "minitrain/parallel/piece_collectives.py": "tests/parallel/test_optimizers.py",
    "minitrain/parallel/hooks.py": "tests/parallel/test_parallelize.py",
    "minitrain/comm/mpi.py": "tests/comm/test_communicator.py",
    "minitrain/train/trainer_arguments.py": "tests/train/test_trainer.py",
}
STAGES = {  # name -> pytest arguments, time limit in seconds; a mutant in an infinite loop exceeds it
    "own": ([], 120),
    "first": (["-m", "not full"], 600),
    "full": (["--full", "-m", "full"], 1500),
}
MOST = 300  # with more tests, the whole tier runs
NONE_RAN = 5  # pytest's status: the tests belong to the other tier


@dataclass
class Result:
    """The outcome of a mutant: the stage and test that killed it, or "survived" and the last stage it passed."""

    key: str
    outcome: str
    stage: str
    by: str
    seconds: float


def main() -> int:
    arguments = parse()
    mutants = choose(arguments.count, arguments.seed)
    path = BUILD / f"seed-{arguments.seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = load(path, forget=arguments.survivors)
    waiting = [
        (number, mutant)
        for number, mutant in enumerate(mutants, 1)
        if mutant.key not in EQUIVALENT and unfinished(results.get(mutant.key), arguments.stages)
    ]
    lock, trees, covering = threading.Lock(), Trees(arguments.jobs), recorded()

    def run(number: int, mutant: Mutant) -> None:
        done = results.get(mutant.key)
        with trees.one() as tree:
            result = try_out(mutant, tree, done, arguments.stages, covering)
        with lock, path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            results[mutant.key] = result
            print(f"{number}/{len(mutants)} {line_of(mutant, result)}", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in [pool.submit(run, *pair) for pair in waiting]:
            future.result()
    return report(mutants, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="how many mutants (100)")
    parser.add_argument("--seed", type=int, default=1, help="which ones: the same seed and code, the same mutants (1)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="stop after these tests")
    parser.add_argument("--survivors", action="store_true", help="try those again that survived")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (1: some tests need the cores)")
    return parser.parse_args()


def choose(count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants on different lines, each line equally likely."""
    random_ = random.Random(seed)
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for file in FILES:
        for mutant in mutants_of(ROOT, file):
            lines.setdefault((file, mutant.line), []).append(mutant)
    return [random_.choice(lines[line]) for line in random_.sample(sorted(lines), count)]


def load(path: Path, forget: bool) -> dict[str, Result]:
    """Return the last result of each mutant, without the survivors if `forget`."""
    if not path.exists():
        return {}
    results = {r["key"]: Result(**r) for r in map(json.loads, path.read_text().splitlines())}
    return {key: result for key, result in results.items() if not (forget and result.outcome == "survived")}


def unfinished(result: Result | None, stages: Sequence[str]) -> list[str]:
    """Return the stages that it has yet to pass."""
    if result is None:
        return list(stages)
    order = list(STAGES)
    later = order[order.index(result.stage) + 1 :] if result.outcome == "survived" else []
    return [stage for stage in stages if stage in later]


class Trees:
    """Copies of the checkout to mutate, so an interrupted run leaves no mutant in your files."""

    def __init__(self, count: int) -> None:
        self.free = []
        for i in range(count):
            tree = BUILD / f"tree-{i}"
            shutil.rmtree(tree, ignore_errors=True)
            command = ["git", "ls-files", "-co", "--exclude-standard"]
            listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            for name in listed.stdout.splitlines():
                if (ROOT / name).exists():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, tree / name)
            self.free.append(tree)

    @contextlib.contextmanager
    def one(self) -> Iterator[Path]:
        tree = self.free.pop()
        yield tree
        self.free.append(tree)


def try_out(mutant: Mutant, tree: Path, done: Result | None, stages: Sequence[str], covering: Covering) -> Result:
    """Run the stages it has not passed yet, up to the first in which a test fails."""
    path, source = tree / mutant.file, (ROOT / mutant.file).read_text()
    reached = reaching(covering, mutant.file, mutant.line)
    reached = reached if len(reached) <= MOST else []
    began = time.monotonic()
    result = Result(mutant.key, "survived", "", "", 0.0)
    write(path, mutant.apply(source))
    try:
        for stage in unfinished(done, stages):
            by = killer(tree, stage, [own_tests(mutant.file)] if stage == "own" else reached)
            result = Result(mutant.key, "killed" if by else "survived", stage, by, round(time.monotonic() - began, 1))
            if by:
                break
    finally:
        write(path, source)
    return result


def write(path: Path, text: str) -> None:
    """Write the file and delete its compiled versions, which Python trusts if time and size agree, as they often do."""
    path.write_text(text)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def killer(tree: Path, stage: str, tests: Sequence[str]) -> str:
    """Run these tests, or all of the stage if there are none. Return the one that failed; "" if all passed."""
    arguments, limit = STAGES[stage]
    scratch = tree / "build" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *arguments, *tests],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "TMPDIR": str(scratch), "COLUMNS": "400"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        end(process)
        return f"no end after {limit} s"
    if process.returncode in (0, NONE_RAN):
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    return failed[1] if failed else f"status {process.returncode}: {output.strip()[-300:]}"


def end(process: subprocess.Popen) -> None:
    """End pytest so that it can end the ranks it started, then kill whatever is left."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def own_tests(file: str) -> str:
    """Return the test file that mirrors a file, or its package's."""
    room = Path(file).parts[1:-1]
    mirror = Path("tests", *room, f"test_{Path(file).name}")
    whole = Path("tests", *room, f"test_{room[-1]}.py") if room else mirror
    return ELSEWHERE.get(file, str(whole if not (ROOT / mirror).exists() and (ROOT / whole).exists() else mirror))


def line_of(mutant: Mutant, result: Result) -> str:
    what = f"by {result.by}" if result.outcome == "killed" else ""
    return (
        f"{mutant.file}:{mutant.line} {mutant.kind}: {mutant.was[:80]} -> {mutant.becomes[:80]}\n"
        f"    {result.outcome} ({result.stage}, {result.seconds:.0f} s) {what}"
    )


def report(mutants: Sequence[Mutant], results: dict[str, Result]) -> int:
    """Print the survivors and the percentages. Return status 1 if a survivor is not explained."""
    real = [mutant for mutant in mutants if mutant.key not in EQUIVALENT]
    survived = [mutant for mutant in real if results[mutant.key].outcome == "survived"]
    print("\nSurvivors" if survived else "\nNo survivors")
    for mutant in survived:
        print(line_of(mutant, results[mutant.key]))
    stages = Counter(results[mutant.key].stage for mutant in real if results[mutant.key].outcome == "killed")
    print(f"\n{len(mutants)} mutants, {len(mutants) - len(real)} of them equivalent; of the other {len(real)}:")
    total = 0
    for stage, what in {"own": "tests of its file", "first": "make test", "full": "make test FULL=1"}.items():
        total += stages[stage]
        print(f"  killed by {what:17} {total:4}  {total / max(len(real), 1):.0%}")
    return int(total < len(real))


if __name__ == "__main__":
    sys.exit(main())
