"""Talking while computing: a thread that makes a rank's collectives while its main thread goes on with backward.

    main thread     backward of layer 4 | layer 3   | layer 2   | layer 1   | wait
    communication              bucket 1 | bucket 2     | bucket 3     | bucket 4 |

Non-blocking collectives of MPI make no progress by themselves; a thread that sits in blocking ones does. It talks on
communicators of its own, so that its messages never mix with the main thread's.
"""

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from ..backend import use_device, xp
from ..comm.communicator import Communicator
from ..errors import UserError


class CommunicationThread:
    """Does jobs one after the other, in the order in which they were given, beside the main thread.

    A daemon: it never keeps a process alive. If a job raises, threading.excepthook is called as for any thread (under
    `minitrain.launch()` this ends the whole job), and `wait` raises as well.
    """

    def __init__(self, name: str = "communication") -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.pending = self.submitted = 0
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, daemon=True, name=name)
        self.thread.start()

    def submit(self, job: Callable[[], None]) -> int:
        """Has the job done when those before it are done; returns at once, with the number of jobs so far.

        Raise RuntimeError after close(): nobody would do it.
        """
        if not self.thread.is_alive() and self.error is None:
            raise RuntimeError(f"the {self.thread.name} thread has ended: its trainer was closed")
        with self.changed:
            self.pending += 1
            self.submitted += 1
        context = contextvars.copy_context()  # the ledger that is open here counts what is sent there
        self.jobs.put(lambda: context.run(job))
        return self.submitted

    def wait(self, left: int = 0) -> None:
        """Returns when all jobs but `left` are done. Raises RuntimeError if one of them failed."""
        with self.changed:
            self.changed.wait_for(lambda: self.pending <= left or self.error is not None)
        if self.error is not None:
            raise RuntimeError(f"the communication thread failed: {self.error}") from self.error

    def close(self) -> None:
        """Ends the thread after the jobs that it has."""
        self.jobs.put(None)
        self.thread.join()

    def _work(self) -> None:
        if xp is not np:
            use_device()  # CUDA's current device belongs to a thread
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except BaseException as error:
                with self.changed:
                    self.error = error
                    self.changed.notify_all()
                raise
            del job  # and with it what it holds: a bucket should not stay alive until the next one comes
            with self.changed:
                self.pending -= 1
                self.changed.notify_all()


def own_lines(groups: list[Communicator]) -> dict[Communicator, Communicator]:
    """A duplicate of each group for the communication thread. Called by all ranks of the groups, in the same order.

    Raises UserError when the MPI in use cannot be called from two threads at once.
    """
    lines: dict[Communicator, Communicator] = {}
    for group in groups:
        if not group.threads_allowed:
            raise UserError(
                "overlap needs an MPI that two threads may call (MPI_THREAD_MULTIPLE), and this one does not offer it; "
                "use --reduce bucketed, or another MPI: see python -m minitrain doctor"
            )
        if group not in lines:
            lines[group] = group.duplicate()
    return lines
