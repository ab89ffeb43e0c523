"""Hang detection for MPI jobs: if ranks wait and none makes progress, end the job and report where each rank is.

A thread in each rank polls its own rank. If the rank has been in the same communication for half of the limit, its
thread repeatedly asks the other threads where their ranks are. It ends the job once no rank has begun a communication
for the whole limit. A job in which any rank makes progress is never ended, however long another rank waits.

    rank                     what its watch reports
    waits in a collective    the collective and the line: the thread runs while the main thread is blocked in MPI
    works, sleeps            the line; allowed, unless another rank waits for longer than the limit
    has ended                that it has ended: it stays in launch() until all ranks have
    is stopped, is gone      nothing: no answer for the whole limit

The same thread receives signals, since Python runs its handlers only once the main thread returns from MPI, if ever.
"""

import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from mpi4py import MPI

from ..comm.rank_positions import ENDED, SILENT, Moves, Standing, report, standing, stuck, together
from .terminal import LINE

ASK, ANSWER, HUSH = 1, 2, 3  # tags on a dedicated communicator
INTERRUPTS = {signal.SIGINT, signal.SIGTERM}  # mpirun ends its ranks with either
AGAIN = 1.0  # seconds; signals that follow sooner are the same one, which mpirun and the terminal may both send
GRACE = 0.1  # seconds for the main thread to handle an interrupt itself; Open MPI kills the ranks after 0.3


DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM like Ctrl-C, without a traceback if it interrupts the exit of launch(). A second SIGTERM kills."""
    signal.signal(number, signal.SIG_DFL)
    sys.excepthook = lambda *_: None
    raise KeyboardInterrupt


class Watch:
    """The watch of one rank, active from `start` to `stop`."""

    def __init__(self, comm: MPI.Intracomm, moves: Moves, limit: float, end: Callable[[str], None]) -> None:
        """comm: used only by watches. limit: seconds. end: ends the job with a message, or with "" as interrupted."""
        self.comm, self.moves, self.limit, self.end = comm, moves, limit, end
        self.main = threading.get_ident()
        self.ended = self.remarked = False  # this rank's program has ended; reported that others have not
        self.count, self.since = moves.count, time.monotonic()
        self.asked: dict[int, float] = {}  # rank -> time of a question not yet answered
        self.answers: dict[int, Standing] = {}
        self.sent: list[MPI.Request] = []
        self.interrupted: tuple[float, int] | None = None  # time, and the number of communications begun by then
        self.signalled = False  # a signal has interrupted this rank
        self.first: float | None = None  # when the first signal came that the program handles itself
        self.hushed = False  # another rank is ending the job: signals from now on are not interrupts
        self.ear, self.mouth = socket.socketpair()
        self.mouth.setblocking(False)
        self.thread = threading.Thread(target=self.run, daemon=True, name="watch")

    def start(self) -> None:
        """Start the thread. If called from the main thread, receive signals as well."""
        self.hears = threading.current_thread() is threading.main_thread()
        if self.hears:
            self.former = signal.set_wakeup_fd(self.mouth.fileno())
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, interrupt)
        self.thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it: no communication may be active when MPI is finalized."""
        if self.hears:
            signal.set_wakeup_fd(self.former)
            if signal.getsignal(signal.SIGTERM) == interrupt:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.mouth.send(b"\0")
        self.thread.join()
        self.ear.close()
        self.mouth.close()

    def run(self) -> None:
        """Poll twenty times per limit, and at least every GRACE seconds."""
        while True:
            ready, _, _ = select.select([self.ear], [], [], min(self.limit / 20, GRACE))
            heard = self.ear.recv(100) if ready else b""
            if 0 in heard:
                return
            if signals := INTERRUPTS.intersection(heard):
                self.hear(signals)
            self.look()

    def hear(self, signals: set[signal.Signals]) -> None:
        """Note an interrupt. One that the program handles itself (it saves, then ends) counts only when repeated."""
        now = time.monotonic()
        own = all(signal.getsignal(number) in (interrupt, *DEFAULTS) for number in signals)
        repeated = self.first is not None and now - self.first > AGAIN
        if not own:
            self.first = self.first or now
        if (own or repeated) and self.interrupted is None:
            self.signalled = True
            self.interrupted = now, self.moves.count

    def look(self) -> None:
        """Answer the other ranks; if this rank has made no progress for half of the limit, ask them."""
        now = time.monotonic()
        if self.moves.count != self.count:
            self.count, self.since = self.moves.count, now
            self.answers.clear()
        self.answer()
        self.listen()
        if self.interrupted is not None:
            self.heed(now, *self.interrupted)
        if now - self.since < self.limit / 2:
            return
        standing = self.here()
        if standing.waits or (self.ended and not self.remarked):
            self.ask(now)
            self.diagnose(standing, now)

    def heed(self, now: float, since: float, count: int) -> None:
        """End the job after an interrupt that the main thread cannot handle because it is blocked in MPI."""
        if self.moves.count != count or self.hushed:
            self.interrupted = None  # the main thread handled it, or another rank is ending the job
        elif now - since >= GRACE and self.here().waits:
            self.end("")

    def here(self) -> Standing:
        """Return the state of this rank."""
        quiet = time.monotonic() - self.since
        return Standing(False, quiet, ENDED) if self.ended else standing(self.main, self.moves, quiet)

    def answer(self) -> None:
        """Send this rank's state to every rank that has asked."""
        status = MPI.Status()
        while self.comm.iprobe(MPI.ANY_SOURCE, ASK, status):
            self.comm.recv(None, status.Get_source(), ASK)
            self.send(self.here(), status.Get_source(), ANSWER)

    def listen(self) -> None:
        """Receive answers, and notices that another rank is ending the job."""
        status = MPI.Status()
        while self.comm.iprobe(MPI.ANY_SOURCE, HUSH, status):
            self.comm.recv(None, status.Get_source(), HUSH)
            self.hushed = True
            LINE.hush()
        while self.comm.iprobe(MPI.ANY_SOURCE, ANSWER, status):
            rank = status.Get_source()
            self.answers[rank] = self.comm.recv(None, rank, ANSWER)
            self.asked.pop(rank, None)

    def hush(self) -> None:
        """Notify the other ranks' watches that this rank is ending the job."""
        self.sent += [self.comm.isend(None, rank, HUSH) for rank in range(self.comm.size) if rank != self.comm.rank]

    def ask(self, now: float) -> None:
        """Ask each rank that has no unanswered question."""
        for rank in range(self.comm.size):
            if rank != self.comm.rank and rank not in self.asked:
                self.asked[rank] = now
                self.send(None, rank, ASK)

    def send(self, what: Any, to: int, tag: int) -> None:
        """Send a small object without blocking."""
        self.sent = [request for request in self.sent if not request.Test()]
        self.sent.append(self.comm.isend(what, to, tag))

    def diagnose(self, standing: Standing, now: float) -> None:
        """End the job if all ranks are stuck; the lowest waiting rank does so."""
        ranks: list[Standing] = []
        for rank in range(self.comm.size):
            if rank == self.comm.rank:
                ranks.append(standing)
            elif now - self.asked.get(rank, now) >= self.limit:
                ranks.append(Standing(False, self.limit, SILENT))
            elif rank in self.answers:
                ranks.append(self.answers[rank])
            else:
                return  # no answer from it yet
        if stuck(ranks, self.limit):
            if next(rank for rank, at in enumerate(ranks) if at.waits) == self.comm.rank:
                self.end(report(ranks, self.limit))
        elif self.ended and standing.quiet >= self.limit and not any(at.waits for at in ranks):
            self.remarked = True  # no rank waits in a communication, so the others may take their time
            if next(rank for rank, at in enumerate(ranks) if at.text == ENDED) == self.comm.rank:
                print(f"minitrain: still waiting for all ranks to end; {together(ranks)}", file=sys.stderr, flush=True)
