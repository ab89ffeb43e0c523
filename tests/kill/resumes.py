"""A run of which a rank is killed, and which is then resumed, ends with the same bits as one that was not."""

import json
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.kill.jobs import Run, Trial, command, differences, resume, rows_of, trained

STEPS, EVERY = 100, 25
CASES: dict[str, tuple[int, str]] = {  # name -> ranks, options
    "serial, one-cycle": (1, "--lr-schedule one-cycle"),
    "data parallel, dropout": (2, "--dropout 0.1"),
    "data parallel": (3, ""),
    "ZeRO-1": (3, "--zero 1"),
    "ZeRO-2, in the background": (3, "--zero 2 --save-async"),
    "ZeRO-3": (3, "--zero 3"),
    "tensor x pipeline parallel": (4, "--tp 2 --pp 2 --accumulate 2"),
    "sequence parallel, dropout": (2, "--tp 2 --sp --dropout 0.1"),
    "fp16, half weights, ZeRO-2": (2, "--zero 2 --precision fp16 --half-weights --loss-scale 1e9 --scale-every 7"),
    "fp16, adaptive": (2, "--precision fp16 --adaptive --loss-scale 1e9 --scale-every 9"),
    "micro-batches, in the background": (2, "--accumulate 2 --save-async"),
    "serial, micro-batches, dropout": (1, "--accumulate 2 --dropout 0.1 --save-async"),
}


def resumed(name: str, seed: int = 1) -> list[str]:
    """Kill a rank in the middle of a run, and resume the run. Return what is wrong in the end."""
    ranks, options = CASES[name]
    draw = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        whole, killed = folder / "whole", folder / "killed"
        trained(ranks, command(folder, options, whole.name, STEPS, EVERY))
        at, victim = STEPS // 2 + draw.randrange(EVERY), draw.randrange(ranks)
        marker = folder / "slow"
        slow = ("tests.kill.slow", str(at), "30", str(marker))
        run = Run(ranks, command(folder, options, killed.name, STEPS, EVERY), slow)
        run.until(marker.exists)  # an update that takes long enough, however much else the machine does
        run.send(signal.SIGKILL, run.pid(victim))
        wrong = run.end().wrong
        rows = rows_of(killed / "log.jsonl")
        if rows_of(whole / "log.jsonl") == rows:
            wrong.append("the run had ended before it was killed")
        said = trained(ranks, resume(killed))
        if f"of {STEPS} updates are made" not in said:
            wrong.append(f"it does not say what it continues: {said}")
        if "--loss-scale" in options and not skips(killed / "log.jsonl", rows):
            wrong.append("no batch was skipped after the kill, as one should be, to see that the scale is continued")
        return wrong + differences(whole, killed)


def skips(log: Path, first: int) -> int:
    """Return how many batches were skipped, from this row of the log on."""
    return sum("skipped" in json.loads(line) for line in log.read_text().splitlines()[first:])


def trials(everything: bool, seed: int) -> Iterator[Trial]:
    """Try all cases, or two of them."""
    for name in CASES if everything else list(CASES)[:2]:
        ranks, options = CASES[name]
        yield Trial(f"{name}: {ranks} rank(s) {options}", resumed(name, seed))
