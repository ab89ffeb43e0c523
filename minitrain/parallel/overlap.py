"""Overlap of communication and computation: a thread runs a rank's collectives during the main thread's backward.

    main thread     backward of layer 4 | layer 3   | layer 2   | layer 1   | wait
    communication              bucket 1 | bucket 2     | bucket 3     | bucket 4 |

MPI's non-blocking collectives make no progress by themselves; a thread in a blocking collective does. The thread has
its own communicators, so that its messages never mix with the main thread's.
"""

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from ..backend import use_device, xp
from ..comm.communicator import Communicator
from ..errors import UserError
from ..observe.recorder import waiting
from ..observe.virtual_time import Lane


class CommunicationThread:
    """A thread that runs jobs in the order of submission, concurrently with the main thread.

    It is a daemon and never keeps a process alive. If a job raises, threading.excepthook is called as for any thread
    (under `minitrain.launch()` this ends the whole program), and `wait` raises as well.
    """

    def __init__(self, name: str = "reduce") -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.pending = self.submitted = 0
        self.lane = Lane()
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, daemon=True, name=name)
        self.thread.start()

    def submit(self, job: Callable[[], None]) -> int:
        """Queue the job and return immediately, with the number of jobs submitted so far.

        Raise RuntimeError after close(), since the job would never run.
        """
        if not self.thread.is_alive() and self.error is None:
            raise RuntimeError(f"the {self.thread.name} thread has ended: its trainer was closed")
        with self.changed:
            self.pending += 1
            self.submitted += 1
        job = self.lane.timed(job)
        context = contextvars.copy_context()  # the ledger of this thread counts what the job sends
        self.jobs.put(lambda: context.run(job))
        return self.submitted

    def wait(self, left: int = 0) -> None:
        """Block until at most `left` jobs are pending. Raise RuntimeError if one failed."""
        with self.changed:
            if self.pending > left:
                with waiting(self.thread.name):
                    self.changed.wait_for(lambda: self.pending <= left or self.error is not None)
        if self.error is not None:
            raise RuntimeError(f"the communication thread failed: {self.error}") from self.error
        self.lane.wait(left)

    def close(self) -> None:
        """Finish the pending jobs and end the thread."""
        self.jobs.put(None)
        self.thread.join()

    def _work(self) -> None:
        if xp is not np:
            use_device()  # CUDA's current device is set per thread
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except BaseException as error:
                with self.changed:
                    self.error = error
                    self.changed.notify_all()
                raise
            del job  # its bucket must not stay alive until the next job arrives
            with self.changed:
                self.pending -= 1
                self.changed.notify_all()


def communicators_for(groups: list[Communicator]) -> dict[Communicator, Communicator]:
    """Return a duplicate of each group for the communication thread. All ranks must call it in the same order.

    Raise UserError if two threads may not call the MPI at once.
    """
    lines: dict[Communicator, Communicator] = {}
    for group in groups:
        if not group.threads_allowed:
            raise UserError(
                "overlap needs an MPI that two threads may call (MPI_THREAD_MULTIPLE), which this one does not offer; "
                "use --reduce bucketed, or another MPI: see python -m minitrain doctor"
            )
        if group not in lines:
            lines[group] = group.duplicate()
    return lines
