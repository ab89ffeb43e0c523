"""The exit barrier: a rank that is done stays in `launch` until all ranks are done.

    rank 0   done ...... waits ............. ends        all arrive: every rank ends
    rank 1   at work ............... done .. ends
    rank 2   at work ............ failed                 or one fails, and ends the job (abort.py)

A rank arrives by starting a nonblocking all_reduce, the minimum over ranks. A rank that ends with a UserError sends its
own number; the others send the number of ranks. The result is the rank that prints the error.
"""

import threading
import time
from typing import Any

import numpy as np

from ..comm.communicator import Communicator
from . import abort


class ExitBarrier:
    """A barrier before exit. It has its own communicator, so early arrivals do not disturb other collectives."""

    def __init__(self, world: Communicator, limit: float) -> None:
        self.world = world
        self.comm: Any = getattr(world.duplicate(), "comm", None) if world.size > 1 else None
        self.request: Any = None
        self.sent, self.lowest = np.full(1, world.size), np.full(1, world.size)
        self.failed = threading.Event()
        self.leaving = False  # this rank is exiting early: the main thread reports why
        self.watch = None
        if self.comm is not None and world.threads_allowed:
            from .watch import Watch

            self.watch = Watch(self.comm, world.moves, limit, self.give_up)
            self.watch.start()
            world.moves.hush = self.watch.hush

    def give_up(self, message: str) -> None:
        """End the job from the watch's thread: with the message, or as interrupted if the message is empty."""
        if self.leaving:
            return
        if message:
            abort.end(self.world, f"minitrain: error: {message}\n", 1, None)
        abort.interrupted(self.world, None, signalled=True)

    def told_to_be_quiet(self) -> bool:
        """Return whether another rank is ending the job, which caused mpirun's signal to this one."""
        if self.watch is None:
            return False
        time.sleep(0.15)  # time for the watch to poll
        return self.watch.hushed

    def close(self) -> None:
        """Stop the watch's thread, if it is running."""
        watch, self.watch = self.watch, None
        if watch is not None:
            self.world.moves.hush = lambda: None
            watch.stop()

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """End the job: the threading.excepthook while the program runs."""
        self.failed.set()
        abort.fail(self.world, args.exc_value, f" in thread {args.thread.name if args.thread else '?'}")

    @property
    def speaker(self) -> int:
        """The lowest rank that arrived with an error; the number of ranks if none did."""
        return int(self.lowest[0])

    def all_come(self, seconds: float, mistaken: bool = False) -> bool:
        """Return whether every rank arrives within this many seconds. mistaken: this rank ends with a UserError."""
        if self.comm is None:
            return True
        if self.request is None:
            from mpi4py import MPI

            self.sent[0] = self.world.rank if mistaken else self.world.size
            self.request = self.comm.Iallreduce(self.sent, self.lowest, MPI.MIN)
        deadline = time.monotonic() + seconds
        while not self.request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)  # leave the core to ranks that are still at work
        return True

    def wait_for_all(self) -> None:
        """Wait until every rank has arrived; wait forever if a thread of this rank has failed and is ending the job."""
        if self.watch is not None:
            self.watch.ended = True
        self.all_come(float("inf"))
        while self.failed.is_set():
            time.sleep(1)
