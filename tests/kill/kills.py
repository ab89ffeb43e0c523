"""Runs that are killed many times, at random moments and in the middle of a save, and resumed each time until they end.

After each kill, every checkpoint that was reported as complete, of those that are kept, is there and sound; what is not
complete is not loaded. In the end, the run has the bits of one that was never killed.
"""

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minitrain.train.checkpoint_folder import candidates, damage
from minitrain.train.checkpoint_index import INDEX
from tests.kill.driver import KILLED
from tests.kill.jobs import Ended, Run, Trial, command, differences, resume, rows_of, trained

STEPS, KEEP = 100, 2
MOST = 35  # updates between two kills
# ranks, updates between two saves, options, kills
CHAINS = [
    (2, 1, "", 13),
    (3, 2, "--zero 1", 13),
    (2, 3, "--save-async", 12),
    (3, 1, "--zero 3 --save-async --dropout 0.1", 12),
]
ALL_RANKS = [*(("write", n) for n in (1, 2, 9)), *((name, 1) for name in ("create", "sync", "rename", "unlink"))]
RANK_0 = [
    ("make_folder", 1),
    ("create", 2),  # of the index; the first one is of the rank's file
    ("rename", 2),
    ("remove_folder", 1),  # of an old checkpoint
    *(("sync", n) for n in range(2, 8)),
    *(("sync_folder", n) for n in range(1, 6)),
    *(("unlink", n) for n in range(2, 6)),
]


@dataclass(frozen=True)
class Kill:
    """A rank is killed at a call of a save (see driver.py); if save is 0, when the log has `rows` more rows; if rows is
    0, after some seconds, of which starting takes about one."""

    rank: int
    save: int = 0
    name: str = "create"
    call: int = 1
    rows: int = 0
    seconds: float = 0.0


def drawn(draw: random.Random, ranks: int) -> Iterator[Kill]:
    """Yield kills without end, every second one during a save."""
    while True:
        rank = draw.randrange(ranks)
        name, call = draw.choice(ALL_RANKS + (RANK_0 if rank == 0 else []))
        yield Kill(rank, draw.randint(1, 8), name, call)
        rows = draw.randint(1, MOST) if draw.random() < 0.7 else 0
        yield Kill(draw.randrange(ranks), rows=rows, seconds=draw.uniform(0, 0.01 if rows else 2.0))


class Chain:
    """One run, killed until it ends, then another one of the same options."""

    def __init__(self, folder: Path, ranks: int, every: int, options: str) -> None:
        self.folder, self.ranks, self.every, self.options = folder, ranks, every, options
        self.number = 0  # of runs that have ended
        trained(ranks, self.command("whole"))

    def command(self, out: str) -> list[str]:
        """Return the arguments that begin a run."""
        options = f"{self.options} --keep {KEEP} --overwrite"  # of a run that was killed before its first save
        return command(self.folder, options, out, STEPS, self.every)

    @property
    def run(self) -> Path:
        """The folder of the current run."""
        return self.folder / f"run-{self.number}"

    def killed(self, kill: Kill) -> Trial | None:
        """Begin or continue the run, and kill it. Return what happened; None if the run ended before, with the right
        bits."""
        record, found = self.folder / f"record-{self.number}", candidates(self.run)[0] if self.run.exists() else []
        lines = rows_of(record)
        begin = resume(self.run) if found else self.command(self.run.name)
        driver = ["tests.kill.driver", str(record), *map(str, (kill.rank, kill.save, kill.name, kill.call))]
        ended = self.run_until(kill, Run(self.ranks, begin, driver))
        notes = record.read_text().splitlines()[lines:] if record.exists() else []
        at = next((note for note in notes if note.startswith(KILLED)), None)
        wrong = [*ended.wrong, *not_continued(ended, found[0][0] if found else None), *lost(self.run, record)]
        if ended.status == 0:
            wrong += differences(self.folder / "whole", self.run)
            self.number += 1
            return Trial("a run ended", wrong) if wrong else None
        if kill.save and at is None:
            wrong.append(f"it did not come to the call, and ended with status {ended.status}:\n{ended.said}")
        moment = f"{kill.rows} updates and {kill.seconds * 1000:.1f} ms" if kill.rows else f"{kill.seconds:.1f} s"
        saved = len([note for note in notes if not note.startswith(KILLED)])
        return Trial(f"{at or f'{KILLED} rank {kill.rank} after {moment}'}; {saved} saves were complete", wrong)

    def run_until(self, kill: Kill, run: Run) -> Ended:
        """Kill a rank of a run, unless it does that itself."""
        if not kill.save:
            victim = run.pid(kill.rank)
            if kill.rows:
                run.reach(self.run / "log.jsonl", rows_of(self.run / "log.jsonl") + kill.rows)
            time.sleep(kill.seconds)
            run.send(signal.SIGKILL, victim)
        return run.end()

    def finish(self) -> list[str]:
        """Let the run end. Return what is wrong then."""
        if self.run.exists():
            trained(self.ranks, resume(self.run) if candidates(self.run)[0] else self.command(self.run.name))
            return differences(self.folder / "whole", self.run)
        return []


def not_continued(ended: Ended, newest: Path | None) -> list[str]:
    """Return what is wrong if a run says that it continues anything but the newest checkpoint."""
    expected = f"continuing {newest}:"
    return [f"expected: {expected}\n{ended.said}"] if "continuing" in ended.said and expected not in ended.said else []


def lost(run: Path, record: Path) -> list[str]:
    """Return which checkpoints are damaged, and which complete ones are lost.

    If one was completed, but the run was killed before it was recorded, then an older one may have been removed.
    """
    notes = record.read_text().splitlines() if record.exists() else []
    recorded = [note for note in notes if not note.startswith(KILLED)]
    found, troubles = candidates(run)  # the newest first
    names = [folder.name for folder, _ in found]
    damages = [
        trouble for folder, index in found for n in range(len(index.files)) for trouble in damage(folder, index, n)
    ]
    newer = names.index(recorded[-1]) if recorded and recorded[-1] in names else 0
    kept = recorded[-max(KEEP - newer, 1) :]
    missing = [f"{name} was complete, and is lost; left are {names}" for name in kept if name not in names]
    incomplete = f"{INDEX} is missing"  # said if it is the only one
    return [trouble for trouble in troubles if incomplete not in trouble] + damages + missing


def killed_often(seed: int, ranks: int, every: int, options: str, count: int) -> Iterator[Trial]:
    """Kill a run, and if it ends, the next one, until there were so many kills."""
    with tempfile.TemporaryDirectory() as there:
        chain, kills = Chain(Path(there), ranks, every, options), 0
        for kill in drawn(random.Random(f"{seed} {ranks} {every} {options}"), ranks):
            if (trial := chain.killed(kill)) is not None:
                kills += 1
                yield Trial(
                    f"{kills} of {count}, {ranks} ranks, --save-every {every} {options}: {trial.done}", trial.wrong
                )
            if kills == count:
                break
        runs = f"{chain.number} runs" if chain.number else "no run"
        yield Trial(f"{runs} ended meanwhile; the last one is continued to its end", chain.finish())


def trials(everything: bool, seed: int) -> Iterator[Trial]:
    """Try 50 kills, or 5."""
    for ranks, every, options, count in CHAINS if everything else [(2, 1, "", 5)]:
        yield from killed_often(seed, ranks, every, options, count)
