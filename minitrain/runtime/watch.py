"""A watch over the ranks of a job under MPI: when they wait for each other and none moves, it says where each stands.

A thread in each rank looks at its own rank now and then. One that has waited in the same communication for half of the
limit asks the others' threads where their ranks stand, again and again, and ends the job when no rank has begun a
communication for the whole limit. So a job in which any rank moves is never ended, however long another one waits.

    rank                     what its watch can tell
    waits in a collective    this, and where: the thread runs while the main thread sits in MPI
    works, sleeps            this, and where; it may do so, but not while another one waits for longer than the limit
    has ended                this: it stays in launch() until all have ended
    is stopped, is gone      nothing: no answer comes for the whole limit

The same thread hears of signals: Python's own handlers run when the main thread returns from MPI, which may never be.
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

from ..comm.positions import ENDED, SILENT, Moves, Standing, report, standing, stuck, together

ASK, ANSWER, HUSH = 1, 2, 3  # tags on a communicator of their own
INTERRUPTS = {signal.SIGINT, signal.SIGTERM}  # mpirun ends its ranks with the one or the other
GRACE = 0.1  # seconds: for the main thread to see an interrupt by itself; Open MPI kills the ranks after 0.3


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM as Ctrl-C. A second one ends the rank at once, wherever the first has brought it, and what an
    interrupt breaks off while launch() is being left is not traced."""
    signal.signal(number, signal.SIG_DFL)
    sys.excepthook = lambda *_: None
    raise KeyboardInterrupt


class Watch:
    """The watch of one rank, from `start` to `stop`."""

    def __init__(self, comm: MPI.Intracomm, moves: Moves, limit: float, end: Callable[[str], None]) -> None:
        """comm: for these messages alone. end: ends the job with a message, or as interrupted when there is none."""
        self.comm, self.moves, self.limit, self.end = comm, moves, limit, end
        self.main = threading.get_ident()
        self.ended = self.remarked = False  # the program of this rank is over, and it was said that others are not
        self.count, self.since = moves.count, time.monotonic()
        self.asked: dict[int, float] = {}  # rank -> when, until it answers
        self.answers: dict[int, Standing] = {}
        self.sent: list[MPI.Request] = []
        self.interrupted: tuple[float, int] | None = None  # when, and how many communications had begun
        self.signalled = False  # an interrupt has come as a signal
        self.hushed = False  # another rank ends the job: what comes now is no interrupt
        self.ear, self.mouth = socket.socketpair()
        self.mouth.setblocking(False)
        self.thread = threading.Thread(target=self.run, daemon=True, name="watch")

    def start(self) -> None:
        """Begins to look and, if this is the main thread, to hear of signals."""
        self.hears = threading.current_thread() is threading.main_thread()
        if self.hears:
            self.former = signal.set_wakeup_fd(self.mouth.fileno())
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, interrupt)
        self.thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended: nobody may talk when MPI comes to its end."""
        if self.hears:
            signal.set_wakeup_fd(self.former)
            if signal.getsignal(signal.SIGTERM) == interrupt:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.mouth.send(b"\0")
        self.thread.join()
        self.ear.close()
        self.mouth.close()

    def run(self) -> None:
        """Looks twenty times in a limit, and at least four times a second."""
        while True:
            ready, _, _ = select.select([self.ear], [], [], min(self.limit / 20, GRACE))
            heard = self.ear.recv(100) if ready else b""
            if 0 in heard:
                return
            if not INTERRUPTS.isdisjoint(heard) and self.interrupted is None:
                self.signalled = True
                self.interrupted = time.monotonic(), self.moves.count
            self.look()

    def look(self) -> None:
        """Answers the others and, if this rank has not moved for half of the limit, asks them."""
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
        mine = self.here()
        if mine.waits or (self.ended and not self.remarked):
            self.ask(now)
            self.judge(mine, now)

    def heed(self, now: float, since: float, count: int) -> None:
        """Ends the job after an interrupt that the main thread cannot see, since it sits in a communication."""
        if self.moves.count != count or self.hushed:
            self.interrupted = None  # it has seen it, and goes on
        elif now - since >= GRACE and self.here().waits:
            self.end("")

    def here(self) -> Standing:
        """Where this rank stands."""
        quiet = time.monotonic() - self.since
        return Standing(False, quiet, ENDED) if self.ended else standing(self.main, self.moves, quiet)

    def answer(self) -> None:
        """Tells everyone who has asked."""
        status = MPI.Status()
        while self.comm.iprobe(MPI.ANY_SOURCE, ASK, status):
            self.comm.recv(None, status.Get_source(), ASK)
            self.send(self.here(), status.Get_source(), ANSWER)

    def listen(self) -> None:
        """Takes in what was answered, and that another rank ends the job."""
        status = MPI.Status()
        while self.comm.iprobe(MPI.ANY_SOURCE, HUSH, status):
            self.comm.recv(None, status.Get_source(), HUSH)
            self.hushed = True
        while self.comm.iprobe(MPI.ANY_SOURCE, ANSWER, status):
            rank = status.Get_source()
            self.answers[rank] = self.comm.recv(None, rank, ANSWER)
            self.asked.pop(rank, None)

    def hush(self) -> None:
        """Tells the other ranks' watches that this rank is about to end the job."""
        self.sent += [self.comm.isend(None, rank, HUSH) for rank in range(self.comm.size) if rank != self.comm.rank]

    def ask(self, now: float) -> None:
        """Asks each rank that has no question to answer."""
        for rank in range(self.comm.size):
            if rank != self.comm.rank and rank not in self.asked:
                self.asked[rank] = now
                self.send(None, rank, ASK)

    def send(self, what: Any, to: int, tag: int) -> None:
        self.sent = [request for request in self.sent if not request.Test()]
        self.sent.append(self.comm.isend(what, to, tag))

    def judge(self, mine: Standing, now: float) -> None:
        """Ends the job if all ranks are stuck; the first of those that wait does it."""
        ranks: list[Standing] = []
        for rank in range(self.comm.size):
            if rank == self.comm.rank:
                ranks.append(mine)
            elif now - self.asked.get(rank, now) >= self.limit:
                ranks.append(Standing(False, self.limit, SILENT))
            elif rank in self.answers:
                ranks.append(self.answers[rank])
            else:
                return  # its first answer is still to come
        if stuck(ranks, self.limit):
            if next(rank for rank, at in enumerate(ranks) if at.waits) == self.comm.rank:
                self.end(report(ranks, self.limit))
        elif self.ended and mine.quiet >= self.limit and not any(at.waits for at in ranks):
            self.remarked = True  # nobody needs the others to go on: they may take their time
            if next(rank for rank, at in enumerate(ranks) if at.text == ENDED) == self.comm.rank:
                print(f"minitrain: still waiting for all ranks to end; {together(ranks)}", file=sys.stderr, flush=True)
