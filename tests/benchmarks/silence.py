"""How long is a command silent? Runs commands with large settings into a pipe, and notes when each line arrives.

    python -m tests.benchmarks.silence                  all of them, one after the other: some minutes
    python -m tests.benchmarks.silence train plan       only these

The time until the first output has Python's start in it. After that, the longest gap between two outputs counts, or
between the last one and the end.
"""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from minitrain.runtime.mpirun import find_mpirun

WIDE = "--layers 8 --width 512 --heads 8 --context 128 --validation 0.01"  # an update of 16 windows takes seconds
LARGE = "--layers 12 --width 1024 --heads 16 --context 16 --batch 1 --validation 0.0002"  # 151 M parameters
MODEL = """
from minitrain.models import GPTConfig, gpt
def make_model():
    return gpt(GPTConfig(2000, 64, 6, 8, 256, dtype="float64"))
"""
# name -> (ranks, its words); {at} is a folder with what the earlier rows, a text and a model have left there
ROWS: dict[str, tuple[int, str]] = {
    "train, long updates": (1, f"train {WIDE} --batch 32 --accumulate 4 --steps 2 --sample 0 --out {{at}}/long"),
    "train, 2 ranks": (2, f"train {WIDE} --batch 16 --accumulate 4 --steps 2 --sample 0 --out {{at}}/two"),
    "train, large": (1, f"train {LARGE} --steps 2 --sample 3 --out {{at}}/run"),
    "train --resume": (1, "train --resume {at}/run --steps 3 --sample 0 --save-every 0"),
    "train --from": (1, "train --from {at}/run --steps 1 --context 16 --batch 1 --sample 0 --save-every 0"
                        " --validation 0.0002 --out {at}/from"),
    "inspect --verify": (1, "inspect {at}/run --verify"),
    "export": (1, "export {at}/run --to {at}/gpt2"),
    "import": (1, "import {at}/gpt2 --to {at}/back"),
    "sample": (1, "sample --checkpoint {at}/run --length 5"),
    "lr-range": (1, f"lr-range {WIDE} --batch 16 --updates 4 --out {{at}}/range"),
    "memory": (1, f"memory {WIDE} --batch 24 --out {{at}}/memory"),
    "timeline": (2, f"timeline {WIDE} --batch 16 --pp 2 --accumulate 4 --out {{at}}/timeline"),
    "compare schedules": (1, "compare schedules --updates 1000 --seeds 1 --lr 0.01 --out {at}/schedules"),
    "compare precision": (1, "compare precision --updates 300 --seeds 1 --out {at}/precision"),
    "compare model": (2, "compare model {at}/model.py:make_model --tp 2 --batch 48 --context 64"),
    "plan": (1, "plan llama3-70b --ranks 64 --machine h100"),
    "plan --measure": (2, "plan --measure"),
    "tokenizer": (1, "tokenizer --text {at}/text.txt --size 8000 --to {at}/tokenizer.json"),
    "doctor": (1, "doctor"),
}  # fmt: skip
LIMIT = 300.0  # seconds for one row


class Silence(NamedTuple):
    """Seconds to the first output, the longest gap after it, the whole time, what ended the gap, and the status."""

    first: float
    gap: float
    seconds: float
    after: str
    status: int


def listen(command: Sequence[str]) -> Silence:
    """Run a command in a pipe, and note when it prints."""
    begun = last = time.monotonic()
    first, gap, after = 0.0, 0.0, ""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    while select.select([process.stdout], [], [], LIMIT)[0]:
        data = os.read(process.stdout.fileno(), 2**16)
        now = time.monotonic()
        if not first:
            first = now - begun
        elif now - last > gap:
            gap, after = now - last, data.decode(errors="replace").partition("\n")[0]
        last = now
        if not data:
            break
    else:
        process.kill()
    return Silence(first, gap, time.monotonic() - begun, after, process.wait())


def main(chosen: Sequence[str]) -> int:
    """Print a table of all rows, or of those whose name begins with a word. Return 1 if a command failed."""
    table = Table("command", box=None, pad_edge=False)
    for heading in ("seconds", "first", "longest gap"):
        table.add_column(heading, justify="right")
    table.add_column("the line that ended it")
    failed = 0
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        folder.joinpath("model.py").write_text(MODEL)
        text = " ".join(f"{n * n * n % 999983:x}" for n in range(1_500_000))
        folder.joinpath("text.txt").write_text(text)
        for name, (ranks, arguments) in ROWS.items():
            if chosen and not name.startswith(tuple(chosen)):
                continue
            start = [str(find_mpirun()), "-n", str(ranks)] if ranks > 1 else []
            words = arguments.format(at=at).split()
            first, gap, seconds, after, status = listen([*start, sys.executable, "-m", "minitrain", *words])
            failed += status != 0
            note = f"STATUS {status}: {after}" if status else after
            print(
                f"{name}: {seconds:.1f} s, first {first:.1f} s, longest gap {gap:.1f} s, ended by {note[:40]!r}",
                flush=True,
            )
            table.add_row(name, f"{seconds:.1f}", f"{first:.1f}", f"{gap:.1f}", note[:30])
    Console(highlight=False, markup=False, width=80).print(table)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
