"""Runs that are killed, or sent a signal, and resumed, end with the same bits as runs that are not."""

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minitrain.runtime.mpirun import family_of
from minitrain.train.checkpoint_folder import candidates, damage
from tests.kill.jobs import MODEL, Run, differences, text, trained

STEPS, EVERY = 200, 25
RESUMED: dict[str, tuple[int, str]] = {  # name -> ranks, options
    "serial": (1, "--lr-schedule one-cycle"),
    "data parallel, dropout": (2, "--dropout 0.1"),
    "data parallel on 3 ranks": (3, ""),
    "ZeRO-1": (3, "--zero 1"),
    "ZeRO-2, in the background": (3, "--zero 2 --save-async"),
    "ZeRO-3": (3, "--zero 3"),
    "tensor parallel x pipeline": (4, "--tp 2 --pp 2 --accumulate 2"),
    "sequence parallel": (2, "--tp 2 --sp --dropout 0.1"),
    "fp16, half weights, ZeRO-2": (2, "--zero 2 --precision fp16 --half-weights --loss-scale 1e9 --scale-every 7"),
    "fp16, adaptive": (2, "--precision fp16 --adaptive --loss-scale 1e9 --scale-every 9"),
    "micro-batches, in the background": (2, "--accumulate 2 --save-async"),
}


def command(folder: Path, options: str, out: str, steps: int = STEPS, every: int = EVERY) -> list[str]:
    """Return the arguments of a run in a folder."""
    where = ["--text", str(text(folder)), "--out", str(folder / out)]
    return ["train", *MODEL.split(), *options.split(), "--steps", str(steps), "--save-every", str(every), *where]


def resumed(name: str, seed: int = 1) -> list[str]:
    """Kill a rank in the middle of a run, and resume it. Return in what it then differs from a run without that."""
    ranks, options = RESUMED[name]
    draw = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        trained(ranks, command(folder, options, "whole"))
        run = Run(ranks, command(folder, options, "killed"))
        run.reach(folder / "killed" / "log.jsonl", STEPS // 2 + draw.randrange(EVERY))
        run.send(signal.SIGKILL, draw.randrange(ranks))
        run.end()
        rows = (folder / "killed" / "log.jsonl").read_bytes().count(b"\n")
        said = trained(ranks, ["train", "--resume", str(folder / "killed")])
        late = [] if rows <= STEPS else [f"it had already made all updates when it was killed: {rows} rows"]
        silent = [] if "updates are made" in said else [f"it does not say that it continues: {said}"]
        return differences(folder / "whole", folder / "killed") + late + silent


# What the process that was started returns if a rank is killed: Python's Popen, MPICH's mpirun, and Open MPI's.
KILLED = (-signal.SIGKILL, signal.SIGKILL, 128 + signal.SIGKILL)

# Many kills -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """rank is killed at call `call` of save `save`; if save is 0, after `rows` more rows of the log."""

    rank: int
    save: int
    call: int
    rows: int


def drawn(seed: int, count: int, ranks: int) -> Iterator[Kill]:
    """Yield this many kills; every second one is during a save."""
    draw = random.Random(seed)
    for number in range(count):
        save = draw.randint(1, 9) if number % 2 else 0
        yield Kill(draw.randrange(ranks), save, draw.randint(1, 25), draw.randint(1, 60))


def killed_often(seed: int, count: int, ranks: int, options: str = "") -> Iterator[tuple[str, list[str]]]:
    """Kill a run this many times, each time resuming it, then let it end. Yield what was done, and what went wrong."""
    steps, every = 45 * count, 2
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        trained(ranks, command(folder, options, "whole", steps, every))
        begin = command(folder, options, "killed", steps, every)
        for number, kill in enumerate(drawn(seed, count, ranks), 1):
            done, wrong = killed_once(folder, kill, ranks, begin)
            yield f"kill {number} of {count}, {ranks} ranks{' ' if options else ''}{options}: {done}", wrong
            begin = ["train", "--resume", str(folder / "killed")]
        trained(ranks, begin)
        yield (
            f"{ranks} ranks{' ' if options else ''}{options}: the end",
            differences(folder / "whole", folder / "killed"),
        )


def killed_once(folder: Path, kill: Kill, ranks: int, begin: list[str]) -> tuple[str, list[str]]:
    """Start or resume a run and kill it. Return what happened, and what is wrong with the checkpoints that are left."""
    log, record = folder / "killed" / "log.jsonl", folder / "record"
    driver = [str(record), *map(str, (kill.rank, kill.save, kill.call))]
    there = candidates(folder / "killed")[0]
    start = there[0][1].about["log_rows"] if there else 0
    run = Run(ranks, begin, driver)
    if not kill.save:
        run.reach(log, start + kill.rows)  # soon, if the killed run had come so far: it is killed as it starts, then
        run.send(signal.SIGKILL, kill.rank)
    status, said = run.end()
    if status not in KILLED:
        return "it was not killed", [f"{kill}: status {status}\n{said}"]
    where = f"call {kill.call} of save {kill.save}" if kill.save else f"{kill.rows} updates after it began"
    return f"rank {kill.rank} at {where}", [
        *lost(folder / "killed", record),
        *([] if "Traceback" not in said else [said]),
    ]


def lost(run: Path, record: Path) -> list[str]:
    """Return what is wrong: complete checkpoints that were recorded are lost or damaged, or fewer than two are left."""
    recorded = record.read_text().split() if record.exists() else []
    found, _ = candidates(run)
    sound = [folder for folder, index in found if not any(damage(folder, index, n) for n in range(len(index.files)))]
    updates = {folder.name: index.updates for folder, index in found if folder in sound}
    wrong = [f"{folder.name} is damaged" for folder, _ in found if folder not in sound]
    if recorded and recorded[-1] not in updates:
        wrong.append(f"{recorded[-1]} was complete, and is lost; left are {sorted(updates)}")
    if len(sound) < min(2, len(set(recorded))):
        wrong.append(f"only {sorted(updates)} are left of {recorded[-3:]}")
    return wrong


# Signals --------------------------------------------------------------------------------------------------------------

SIGNALS = {  # name -> signal, the ranks it is sent to; none: to mpirun
    "SIGTERM to mpirun": (signal.SIGTERM, ()),
    "SIGINT to mpirun": (signal.SIGINT, ()),
    "SIGTERM to all ranks": (signal.SIGTERM, (0, 1)),
    "SIGINT to all ranks": (signal.SIGINT, (0, 1)),
    "SIGTERM to one rank": (signal.SIGTERM, (1,)),
}


def signalled(name: str, family: str) -> list[str]:
    """Send a signal to a run of two ranks. Return what is wrong: it has not saved, or does not end with the same bits.

    Under Open MPI, a signal to mpirun leaves no time to save, but must lose no complete checkpoint.
    """
    number, ranks = SIGNALS[name]
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        trained(2, command(folder, "", "whole", 240, 40))
        run = Run(2, command(folder, "", "killed", 240, 40))
        run.reach(folder / "killed" / "log.jsonl", 100)
        for rank in ranks or (None,):
            run.send(number, rank)
        start = time.monotonic()
        status, said = run.end()
        wrong = [] if time.monotonic() - start < 10 else ["it took more than 10 s to end"]
        found = candidates(folder / "killed")[0]
        updates = found[0][1].updates
        if ranks or family == "MPICH":
            wrong += [] if status == 130 else [f"the status is {status}"]
            wrong += [] if f"saved {found[0][0]}. Continue with: train --resume {folder / 'killed'}" in said else [said]
            wrong += [] if updates >= 100 else [f"the last checkpoint is of update {updates}"]
        wrong += [] if updates >= 80 else [f"the checkpoint of update 80 is lost: {updates}"]
        trained(2, ["train", "--resume", str(folder / "killed")])
        return wrong + differences(folder / "whole", folder / "killed")


def family() -> str:
    """Return the family of the MPI in use."""
    from mpi4py import MPI

    return family_of(MPI.Get_library_version())
