"""A run that is sent a signal saves and says where; what it saved is continued to the same bits.

Open MPI's mpirun kills its ranks 0.3 s after a signal to itself, which is too soon: then nothing complete is lost.
"""

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from minitrain.runtime.mpirun import family_of
from minitrain.train.checkpoint_folder import candidates
from tests.kill.jobs import Ended, Run, Trial, command, differences, resume, trained

STEPS, EVERY, AT = 100, 25, 65
PAUSE = 0.5  # seconds of the update in which the signal comes, on a machine with much else to do
CASES: dict[str, tuple[int, tuple[int, ...]]] = {  # name -> signal, the ranks it is sent to; none: to mpirun
    "SIGTERM to mpirun": (signal.SIGTERM, ()),
    "SIGTERM to rank 1 only": (signal.SIGTERM, (1,)),
    "SIGINT to mpirun": (signal.SIGINT, ()),
    "SIGTERM to all ranks": (signal.SIGTERM, (0, 1)),
    "SIGINT to all ranks": (signal.SIGINT, (0, 1)),
    "SIGINT to rank 0 only": (signal.SIGINT, (0,)),
}
TWICE = ("soon", "a slow update", "a blocked rank")
BETWEEN = 1.3  # seconds; signals within one second are one
AT_ONCE = 15.0  # seconds, for a machine with much else to do; the update takes 60


def family() -> str:
    """Return the family of the MPI in use."""
    from mpi4py import MPI

    return family_of(MPI.Get_library_version())


class Signalled:
    """Runs of two ranks in a folder, which are compared with an undisturbed one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.family, self.number = folder, family(), 0
        trained(2, command(folder, "", "whole", STEPS, EVERY))

    def begun(self, seconds: float = PAUSE) -> tuple[Run, list[int | None]]:
        """Return a new run in an update that takes some seconds, after AT others, and its ranks."""
        self.number += 1
        self.out = self.folder / f"run-{self.number}"
        marker = self.folder / f"slow-{self.number}"
        slow = ("tests.kill.slow", str(AT), str(seconds), str(marker))
        run = Run(2, command(self.folder, "", self.out.name, STEPS, EVERY), slow)
        ranks = [run.pid(0), run.pid(1)]
        assert run.until(marker.exists), run.end()
        return run, ranks

    def once(self, name: str) -> list[str]:
        """Send one signal. Return what is wrong."""
        number, to = CASES[name]
        run, ranks = self.begun()
        run.send(number, *(ranks[rank] for rank in to))
        saves = bool(to) or self.family == "MPICH"
        return self.wrong(run.end(), saves, AT if saves else AT // EVERY * EVERY)

    def twice(self, how: str) -> list[str]:
        """Send two signals to rank 0, or where it can wait, to both ranks. Return what is wrong.

        Soon after each other, they are one. Later, the second ends the run at once, though an update is in progress.
        """
        run, ranks = self.begun(60 if how == "a slow update" else PAUSE)
        if how == "a blocked rank":
            run.send(signal.SIGSTOP, ranks[1])
        to = ranks[:1] if how == "a blocked rank" else ranks
        run.send(signal.SIGTERM, *to)
        if how == "soon":
            time.sleep(0.001)
            run.send(signal.SIGTERM, *to)
            return self.wrong(run.end(), True, AT)
        time.sleep(BETWEEN)
        early = [] if run.process.poll() is None else ["one signal has ended it"]
        run.send(signal.SIGTERM, *to)
        ended = run.end(AT_ONCE)
        return early + self.wrong(ended, False, AT // EVERY * EVERY)

    def wrong(self, ended: Ended, saves: bool, least: int) -> list[str]:
        """Return what is wrong with a run that was ended by a signal. least: updates that it must have saved."""
        wrong, (found, index) = list(ended.wrong), candidates(self.out)[0][0]
        if ended.status == 0 or (saves and ended.status != 130):
            wrong.append(f"the status is {ended.status}\n{ended.said}")
        if (
            saves
            and f"; saved {found}. Continue with:\nmpirun -n 2 python -m minitrain train --resume {self.out}"
            not in ended.said
        ):
            wrong.append(f"it does not say that it saved {found}:\n{ended.said}")
        if index.updates < least:
            wrong.append(f"it saved {index.updates} updates, not {least}\n{ended.said}")
        trained(2, resume(self.out))
        return wrong + differences(self.folder / "whole", self.out)


def trials(everything: bool, seed: int) -> Iterator[Trial]:
    """Try all signals, or two."""
    with tempfile.TemporaryDirectory() as there:
        runs = Signalled(Path(there))
        for name in CASES if everything else list(CASES)[:2]:
            yield Trial(f"{name}, {runs.family}", runs.once(name))
        for how in TWICE if everything else ():
            yield Trial(f"two SIGTERM, {how}, {runs.family}", runs.twice(how))
