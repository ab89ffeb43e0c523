"""Ranks as processes under mpirun: the communicator over mpi4py.

Device arrays are staged through pinned host memory unless MPI is GPU-aware; the MPI wheels on PyPI are not.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from ..backend import Array, pinned, synchronize, unpin, xp
from ..errors import UserError
from ..observe import ledger, recorder
from ..sharding import Shards, lengths
from .communicator import Communicator, Tag
from .rank_positions import Moves


def takes_device_arrays() -> bool:
    """Return whether MPI is GPU-aware, as reported by MPI 4.1's memory allocation kinds.

    MPICH reports it under `mpirun -memory-alloc-kinds mpi,system,cuda`.
    """
    info = MPI.COMM_WORLD.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds") or ""
    info.Free()
    return not {"cuda", "cuda:device"}.isdisjoint(kinds.split(","))


DIRECT = takes_device_arrays()
PIECE = 2**22  # bytes that MPI reduces in one call: they stay in the caches, and so 64 MB take a third of the time
TAGS = (MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) // 2  # half of the tags for messages, half for debug mode


class MPICommunicator(Communicator):
    """A group of MPI processes."""

    numbers = TAGS

    def __init__(self, comm: MPI.Intracomm, moves: Moves | None = None, members: Sequence[int] | None = None) -> None:
        """moves: those of the parent communicator; None for the world. members: see Communicator."""
        super().__init__(comm.Get_rank(), comm.Get_size(), moves or Moves(comm.Get_rank()), members)
        self.comm = comm
        self.threads_allowed = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.told: list[MPI.Request] = []

    def _barrier(self) -> None:
        self.comm.Barrier()

    def _all_reduce(self, x: Array, op: str, tag: Tag, shards: Shards | None) -> None:
        lent = _lend(x)
        if op == "max":
            self._take_largest(lent)
        else:
            flat, piece = lent.reshape(-1), PIECE // lent.itemsize
            for lo in range(0, flat.size, piece):
                self.comm.Allreduce(MPI.IN_PLACE, flat[lo : lo + piece], MPI.SUM)
        _take_back(lent, x)

    def _take_largest(self, x: Any) -> None:
        """Reduce by maximum in NumPy, which propagates NaN; MPI.MAX does not do so reliably in MPICH and Open MPI."""
        everyone = type(x)((self.size, *x.shape), x.dtype)
        ledger.hold(everyone, "buffers", "all-reduce")
        self.comm.Allgather([_bytes(x), MPI.BYTE], [_bytes(everyone), MPI.BYTE])
        everyone.max(axis=0, out=x)

    def _reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None) -> Array:
        counts = lengths(self._shards(x, shards))
        shard = xp.empty((counts[self.rank], *x.shape[1:]), x.dtype)
        ledger.hold(shard, "buffers", "reduce-scatter")
        lent = _lend(shard, filled=False)
        row = x.size // len(x)
        self.comm.Reduce_scatter(_lend(x), lent, [n * row for n in counts], MPI.SUM)
        _take_back(lent, shard)
        return shard

    def _all_gather(self, x: Array, tag: Tag, shards: Shards | None) -> None:
        lent = _lend(x)
        runs, step = self._shards(x, shards), x.nbytes // len(x)
        places = ([n * step for n in lengths(runs)], [run.start * step for run in runs])
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
        """Poll with growing pauses: MPI's own wait spins, which takes a core from ranks that have work to do."""
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
            raise ValueError(f"a message of more than the {x.nbytes} bytes of {x.shape} of {x.dtype} arrived") from None
        self._check_message(x, status.Get_count(MPI.BYTE))
        _take_back(lent, x)

    def _gather_objects(self, value: Any) -> list[Any]:
        return self.comm.allgather(value)

    def _subgroup(self, ranks: Sequence[int]) -> "MPICommunicator":
        everybody = self.comm.Get_group()
        group = everybody.Incl(list(ranks))
        child = _made(lambda: self.comm.Create_group(group))
        group.Free()
        everybody.Free()
        return MPICommunicator(child, self.moves, [self.members[rank] for rank in ranks])

    def _duplicate(self) -> "MPICommunicator":
        return MPICommunicator(_made(self.comm.Dup), self.moves, self.members)

    def _free(self) -> None:
        if self.comm == MPI.COMM_WORLD:
            raise ValueError("free() is for what subgroup() and duplicate() returned; MPI itself ends the world")
        self.comm.Free()

    def _tell(self, value: Any, to: int, number: int) -> None:
        self.told = [request for request in self.told if not request.Test()]
        self.told.append(self.comm.isend(value, to, TAGS + number))

    def _hear(self, source: int, number: int) -> Any:
        return self.comm.recv(source=source, tag=TAGS + number)


class _Sent:
    """Handle of a send in flight. Keeps the buffer that MPI reads alive until the send completes."""

    def __init__(self, request: MPI.Request, lent: Any, moves: Moves) -> None:
        self.request, self.lent, self.moves = request, lent, moves

    def done(self) -> bool:
        """Return whether the sent array may be modified again, without blocking."""
        return self.request.Test()

    def wait(self) -> None:
        """Block until the sent array may be modified again."""
        self.moves.begin()
        with recorder.waiting("a send"):
            self.request.Wait()


def _made(make: Callable[[], MPI.Intracomm]) -> MPI.Intracomm:
    """Return the new communicator. Raise UserError if MPI cannot make another one."""
    try:
        return make()
    except MPI.Exception as error:
        raise UserError(
            f"MPI made no further communicator ({str(error).splitlines()[0]}); MPICH allows 2048 per process.\n"
            "Call close() on trainers that you no longer use, and free() on what duplicate() and subgroup() returned"
        ) from error


def _lend(x: Array, filled: bool = True) -> Any:
    """Return the buffer to pass to MPI: x if MPI can access it, otherwise a buffer in pinned host memory.

    filled: whether to copy x into it; False where MPI only writes.
    """
    if isinstance(x, np.ndarray):
        return x
    if DIRECT:
        synchronize()  # MPI does not wait until the device has computed x
        return x
    return pinned(x, filled)


def _take_back(lent: Any, x: Array) -> None:
    """Copy what MPI wrote into x, unless MPI wrote to x itself."""
    if lent is not x:
        unpin(lent, x)


def _bytes(lent: Any) -> Any:
    """Return the buffer as bytes. Not every MPI has a float16 type, and only reductions need one."""
    return lent.reshape(-1).view(np.uint8)
