"""The command `doctor`."""

import threading
from dataclasses import dataclass

from ..errors import check_number
from ..runtime.doctor import examine


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: will `mpirun` work, and if not, what helps?"""

    seconds: float = 30.0
    """Time limit of the two-rank run."""

    def run(self) -> int:
        """Status 0 when all is well."""
        check_number("--seconds", self.seconds, "above 0")
        return examine(min(self.seconds, threading.TIMEOUT_MAX))
