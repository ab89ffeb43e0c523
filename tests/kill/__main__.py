"""Kill runs, fail and kill saves, damage checkpoints, and show that no complete checkpoint is lost and no bit changes.

    python -m tests.kill              some of each, in two minutes
    python -m tests.kill --all        all of it, in a quarter of an hour
    python -m tests.kill --only kills resumes

    failures_at_calls    two ranks save; one fails at its k-th call to the operating system, for every k
    kills_at_calls       or is killed there
    damages              200 random damages of a folder of checkpoints
    resumes              200 updates, beside 100, kill -9 of a rank, and a resumption; for each strategy
    kills                50 kills of a random rank, every second one during a save
    signals              SIGTERM and SIGINT, to mpirun and to ranks

The MPI is that of this Python's environment. One line per trial; the status is 1 if anything is wrong.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.kill import calls, damages, resumes
from tests.kill.jobs import leaving_no_files

Trial = tuple[str, list[str]]  # what was done, and what is wrong
KILLS = {  # seed -> kills, ranks, options
    1: (16, 2, ""),
    2: (10, 3, "--zero 3"),
    3: (12, 2, "--zero 2 --save-async"),
    4: (12, 2, "--precision fp16 --half-weights --loss-scale 1e9 --scale-every 7"),
}


def of_calls(how: str, every: bool) -> Iterator[Trial]:
    """Fail or kill at calls, in the foreground and in the background."""
    for background in (False, True) if every else (False,):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            tried, wrong = calls.every_call(run, how, 1 if every else 3, background=background)
        yield f"{'in the background, ' if background else ''}{how} at each of {tried} calls", wrong


def of_damages(every: bool) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory() as folder:
        tried, wrong = damages.all_of(Path(folder) / "run", 200 if every else 50)
    yield f"{tried} damages", wrong


def of_resumes(every: bool) -> Iterator[Trial]:
    for name in list(resumes.RESUMED)[: None if every else 2]:
        yield f"kill -9 and --resume: {name}", resumes.resumed(name)


def of_kills(every: bool) -> Iterator[Trial]:
    for seed, (count, ranks, options) in KILLS.items():
        if every or seed == 1:
            yield from resumes.killed_often(seed, count if every else 5, ranks, options)


def of_signals(every: bool) -> Iterator[Trial]:
    family = resumes.family()
    for name in list(resumes.SIGNALS)[: None if every else 2]:
        yield f"{name} ({family})", resumes.signalled(name, family)


PARTS: dict[str, Callable[[bool], Iterator[Trial]]] = {
    "failures_at_calls": partial(of_calls, "fail"),
    "kills_at_calls": partial(of_calls, "kill"),
    "damages": of_damages,
    "resumes": of_resumes,
    "kills": of_kills,
    "signals": of_signals,
}


def main() -> int:
    """Run the parts and return the status."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every trial, instead of some of each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    given = parser.parse_args()
    tried = bad = 0
    with leaving_no_files():
        for part in given.only:
            start = time.monotonic()
            for done, wrong in PARTS[part](given.all):
                tried, bad = tried + 1, bad + bool(wrong)
                print(f"{done}: {'; '.join(wrong) if wrong else 'ok'} ({time.monotonic() - start:.1f} s)", flush=True)
                start = time.monotonic()
    print(f"{tried} trials, {bad} wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
