"""Signals that ask a run to end: the first one is noted, so that the run can save before it leaves."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

AGAIN = 1.0  # seconds, as in runtime/watch.py, which needs MPI


class Signals:
    """Within the `with`, note the first SIGINT or SIGTERM in `heard`. A later one ends the process as it would have.

    Under Open MPI, a signal to mpirun leaves no time: it kills its ranks 0.3 s later. Send the signal to the ranks.
    """

    def __init__(self, note: str = "") -> None:
        """note: what to print when the first one is heard."""
        self.note, self.heard = note, False
        self.since = 0.0
        self.former: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self.hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
        self.former = {}

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.heard:
            self.heard, self.since = True, time.monotonic()
            os.write(2, self.note.encode())  # print may be in progress on this thread
        elif time.monotonic() - self.since > AGAIN:
            self.__exit__()
            os.kill(os.getpid(), number)
