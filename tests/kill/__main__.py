"""Kill and fail a save at each of its calls, and damage its files.

python -m tests.kill            at every third call
python -m tests.kill --all      at all of them, also of a save in the background, and 200 damages
python -m tests.kill --how kill
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kill import calls, damages


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="at all calls, not only every third one")
    parser.add_argument("--how", nargs="+", choices=["fail", "kill", "damage"], default=["fail", "kill", "damage"])
    given = parser.parse_args()
    bad = 0
    for how in given.how:
        for background in (False, True) if given.all and how != "damage" else (False,):
            with tempfile.TemporaryDirectory() as folder:
                start, path = time.perf_counter(), Path(folder) / "run"
                if how == "damage":
                    tried, wrong = damages.all_of(path, 200)
                else:
                    tried, wrong = calls.every_call(path, how, 1 if given.all else 3, background=background)
            seconds = time.perf_counter() - start
            where = ", in the background" if background else ""
            print(f"{how}{where}: {tried} tried, {len(wrong)} wrong, {seconds:.1f} s", *wrong, sep="\n  ")
            bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
