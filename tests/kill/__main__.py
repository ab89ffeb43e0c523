"""Kill and signal training runs, resume them, and compare what they leave with runs that were not disturbed.

    python -m tests.kill                a few trials, a minute
    python -m tests.kill --all          all of them, ten minutes
    python -m tests.kill --all --only kills --seed 2

    resumes             one kill in the middle of a run, for each way to train
    kills               50 kills at random moments and in the middle of a save; the run is resumed until it ends
    signals             SIGTERM and SIGINT to mpirun, to all ranks and to one, with the MPI of this environment
    failures_at_calls   a save that fails at its k-th call to the system, for every k
    kills_at_calls      or is killed there
    damages             200 random damages of a folder of checkpoints

Each trial prints a line. The status is 1 if any of them went wrong. The trials of a seed are the same each time, but
for the exact moment of a kill.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.kill import calls, damages, kills, resumes, signals
from tests.kill.jobs import Trial, cleaned

Trials = Callable[[bool, int], Iterator[Trial]]


def at_calls(how: str, everything: bool, seed: int) -> Iterator[Trial]:
    """Fail or be killed at the calls of a save: at all of them, also in the background, or at every third one."""
    for background in (False, True) if everything else (False,):
        with tempfile.TemporaryDirectory() as folder:
            count, wrong = calls.every_call(Path(folder) / "run", how, 1 if everything else 3, background=background)
        yield Trial(f"{how} at each of {count} calls{', in the background' if background else ''}", wrong)


def of_damages(everything: bool, seed: int) -> Iterator[Trial]:
    """Damage checkpoints in different ways."""
    with tempfile.TemporaryDirectory() as folder:
        count, wrong = damages.all_of(Path(folder) / "run", 200 if everything else 50)
    yield Trial(f"{count} damages", wrong)


PARTS: dict[str, Trials] = {
    "resumes": resumes.trials,
    "kills": kills.trials,
    "signals": signals.trials,
    "failures_at_calls": partial(at_calls, "fail"),
    "kills_at_calls": partial(at_calls, "kill"),
    "damages": of_damages,
}


def tried(name: str, everything: bool, seed: int) -> tuple[int, int]:
    """Run a part, printing its trials. Return how many there were, and how many went wrong."""
    count = bad = 0
    start = time.monotonic()
    trials = PARTS[name](everything, seed)
    while True:
        try:
            trial = next(trials)
        except StopIteration:
            return count, bad
        except Exception as error:  # the part ends here, the others go on
            trial = Trial(f"{type(error).__name__}", [str(error)])
        count, bad, now = count + 1, bad + bool(trial.wrong), time.monotonic()
        print(f"{name:17} {now - start:6.1f} s  {'WRONG' if trial.wrong else 'right'}  {trial.done}", flush=True)
        start = now
        for line in "\n".join(trial.wrong).splitlines():
            print(f"    {line}", flush=True)


def main() -> int:
    """Run the parts. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all trials, not only a few")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the parts")
    given = parser.parse_args()
    results = {}
    with cleaned():
        for name in given.only:
            start = time.monotonic()
            count, bad = tried(name, given.all, given.seed)
            results[name] = f"{count} trials, {bad} went wrong, {time.monotonic() - start:.0f} s", bad
    for name, (line, _) in results.items():
        print(f"{name}: {line}")
    return 1 if any(bad for _, bad in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
