"""Ranks as processes under mpirun: the communicator over mpi4py.

Device arrays go through pinned host memory, unless the MPI says that it can read a GPU's: those from PyPI cannot.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from ..backend import Array, pinned, synchronize, unpin, xp
from ..observe import ledger
from ..shares import Cuts, lengths
from .communicator import Communicator, Tag
from .positions import Moves


def takes_device_arrays() -> bool:
    """Whether the MPI says so, in the words of MPI 4.1: `mpirun -memory-alloc-kinds mpi,system,cuda` asks MPICH."""
    info = MPI.COMM_WORLD.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds") or ""
    info.Free()
    return not {"cuda", "cuda:device"}.isdisjoint(kinds.split(","))


DIRECT = takes_device_arrays()
TAGS = (MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) // 2  # half of them for messages, half for debug mode


class MPICommunicator(Communicator):
    """A group of MPI processes."""

    numbers = TAGS

    def __init__(self, comm: MPI.Intracomm, moves: Moves | None = None) -> None:
        """moves: of the communicator that this one is made from; none for the world."""
        super().__init__(comm.Get_rank(), comm.Get_size(), moves or Moves(comm.Get_rank()))
        self.comm = comm
        self.threads_allowed = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.told: list[MPI.Request] = []

    def _barrier(self) -> None:
        self.comm.Barrier()

    def _all_reduce(self, x: Array, op: str, tag: Tag, cuts: Cuts | None) -> None:
        lent = _lend(x)
        if op == "max":
            self._take_largest(lent)
        else:
            self.comm.Allreduce(MPI.IN_PLACE, lent, MPI.SUM)
        _take_back(lent, x)

    def _take_largest(self, x: Any) -> None:
        """Not by MPI.MAX: of NaN and a number, MPICH and Open MPI keep now the one, now the other. NumPy keeps NaN."""
        everyone = type(x)((self.size, *x.shape), x.dtype)
        ledger.hold(everyone, "buffers", "all-reduce")
        self.comm.Allgather([_bytes(x), MPI.BYTE], [_bytes(everyone), MPI.BYTE])
        everyone.max(axis=0, out=x)

    def _reduce_scatter(self, x: Array, tag: Tag, cuts: Cuts | None) -> Array:
        counts = lengths(self._cuts(x, cuts))
        mine = xp.empty((counts[self.rank], *x.shape[1:]), x.dtype)
        ledger.hold(mine, "buffers", "reduce-scatter")
        lent = _lend(mine, filled=False)
        row = x.size // len(x)
        self.comm.Reduce_scatter(_lend(x), lent, [n * row for n in counts], MPI.SUM)
        _take_back(lent, mine)
        return mine

    def _all_gather(self, x: Array, tag: Tag, cuts: Cuts | None) -> None:
        lent = _lend(x)
        shares, step = self._cuts(x, cuts), x.nbytes // len(x)
        places = ([n * step for n in lengths(shares)], [cut.start * step for cut in shares])
        self.comm.Allgatherv(MPI.IN_PLACE, [_bytes(lent), places, MPI.BYTE])
        _take_back(lent, x)

    def _broadcast(self, x: Array, root: int, tag: Tag) -> None:
        lent = _lend(x, filled=self.rank == root)
        self.comm.Bcast([_bytes(lent), MPI.BYTE], root)
        _take_back(lent, x)

    def _send(self, x: Array, to: int, number: int) -> Any:
        lent = _lend(x)
        return _Sent(self.comm.Isend([_bytes(lent), MPI.BYTE], to, number), lent, self.moves)

    def _await(self, source: int, number: int) -> None:
        """MPI's own wait spins, and takes a whole core from ranks that have work to do."""
        start, pause = time.perf_counter(), 0.0
        while not self.comm.Iprobe(source, number):
            if pause or time.perf_counter() - start > 100e-6:
                pause = min(2 * pause, 1e-3) or 20e-6
                time.sleep(pause)

    def _receive(self, x: Array, source: int, number: int) -> None:
        lent = _lend(x, filled=False)
        status = MPI.Status()
        try:
            self.comm.Recv([_bytes(lent), MPI.BYTE], source, number, status)
        except MPI.Exception as error:
            if error.Get_error_class() != MPI.ERR_TRUNCATE:
                raise
            raise ValueError(f"a message of more than the {x.nbytes} bytes of {x.shape} of {x.dtype} arrives") from None
        self._check_message(x, status.Get_count(MPI.BYTE))
        _take_back(lent, x)

    def _gather_objects(self, value: Any) -> list[Any]:
        return self.comm.allgather(value)

    def _subgroup(self, ranks: Sequence[int]) -> "MPICommunicator":
        group = self.comm.Get_group().Incl(list(ranks))
        return MPICommunicator(self.comm.Create_group(group), self.moves)

    def _duplicate(self) -> "MPICommunicator":
        return MPICommunicator(self.comm.Dup(), self.moves)

    def _tell(self, value: Any, to: int, number: int) -> None:
        self.told = [request for request in self.told if not request.Test()]
        self.told.append(self.comm.isend(value, to, TAGS + number))

    def _hear(self, source: int, number: int) -> Any:
        return self.comm.recv(source=source, tag=TAGS + number)


class _Sent:
    """A send under way. Keeps what MPI reads alive until it has left."""

    def __init__(self, request: MPI.Request, lent: Any, moves: Moves) -> None:
        self.request, self.lent, self.moves = request, lent, moves

    def done(self) -> bool:
        """Whether what was sent may change again; does not wait."""
        return self.request.Test()

    def wait(self) -> None:
        self.moves.begin()
        self.request.Wait()


def _lend(x: Array, filled: bool = True) -> Any:
    """What MPI reads and writes in the place of x: x itself where it can, otherwise a copy in pinned host memory.

    filled: False where MPI only writes.
    """
    if isinstance(x, np.ndarray):
        return x
    if DIRECT:
        synchronize()  # MPI does not wait for the device to have computed x
        return x
    return pinned(x, filled)


def _take_back(lent: Any, x: Array) -> None:
    """What MPI wrote comes into x, where it is not there already."""
    if lent is not x:
        unpin(lent, x)


def _bytes(lent: Any) -> Any:
    """MPI has no type for float16 everywhere, and where nothing is added up it needs none."""
    return lent.reshape(-1).view(np.uint8)
