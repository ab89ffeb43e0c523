"""The command `doctor`."""

import threading
from dataclasses import dataclass

from ..errors import check_number
from ..runtime.machine_checks import examine
from ..train.progress import Progress


@dataclass(frozen=True)
class Doctor:
    """Check whether `mpirun` works on this machine, and print what to do if not."""

    seconds: float = 30.0
    """Time limit of the two-rank run, in seconds."""

    def run(self) -> int:
        """Return the exit status, 0 if all is well."""
        check_number("--seconds", self.seconds, "above 0")
        with Progress().task("checking"):
            return examine(min(self.seconds, threading.TIMEOUT_MAX))
