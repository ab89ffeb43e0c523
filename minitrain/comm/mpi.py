"""Ranks as processes under mpirun: the communicator over mpi4py.

Device arrays are staged through host memory: the MPIs from PyPI cannot read a GPU's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from ..backend import Array, to_device, to_host
from ..observe import ledger
from ..shares import share
from .communicator import Communicator, Tag, counts

_OPS = {"sum": MPI.SUM, "max": MPI.MAX}


class MPICommunicator(Communicator):
    """A group of MPI processes."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.threads_allowed = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def barrier(self) -> None:
        self.comm.Barrier()

    def _all_reduce(self, x: Array, op: str, tag: Tag) -> None:
        host = to_host(x)
        self.comm.Allreduce(MPI.IN_PLACE, host, _OPS[op])
        _back(host, x)

    def _reduce_scatter(self, x: Array, tag: Tag) -> Array:
        host = to_host(x)
        lengths = counts(len(x), self.size)
        mine = np.empty(lengths[self.rank], x.dtype)
        ledger.hold(mine, "buffers", "reduce-scatter")
        self.comm.Reduce_scatter(host, mine, lengths, MPI.SUM)
        return to_device(mine)

    def _all_gather(self, x: Array, tag: Tag) -> None:
        host = to_host(x)
        lengths = counts(len(x), self.size)
        starts = [share(len(x), self.size, r).start for r in range(self.size)]
        # As bytes: MPI has no type for float16 everywhere, and nothing is added up here.
        step = x.dtype.itemsize
        places = ([n * step for n in lengths], [start * step for start in starts])
        self.comm.Allgatherv(MPI.IN_PLACE, [host.view(np.uint8), places, MPI.BYTE])
        _back(host, x)

    def _broadcast(self, x: Array, root: int, tag: Tag) -> None:
        host = to_host(x)
        self.comm.Bcast([host.reshape(-1).view(np.uint8), MPI.BYTE], root)
        _back(host, x)

    def _send(self, x: Array, to: int, number: int) -> Any:
        host = to_host(x)
        return _Sent(self.comm.Isend([host.reshape(-1).view(np.uint8), MPI.BYTE], to, number), host)

    def _receive(self, x: Array, source: int, number: int) -> None:
        host = to_host(x)
        status = MPI.Status()
        self.comm.Recv([host.reshape(-1).view(np.uint8), MPI.BYTE], source, number, status)
        self._check_message(x, status.Get_count(MPI.BYTE))
        _back(host, x)

    def gather_objects(self, value: Any) -> list[Any]:
        return self.comm.allgather(value)

    def subgroup(self, ranks: Sequence[int]) -> "MPICommunicator":
        self._check_members(ranks)
        group = self.comm.Get_group().Incl(list(ranks))
        return MPICommunicator(self.comm.Create_group(group))

    def duplicate(self) -> "MPICommunicator":
        return MPICommunicator(self.comm.Dup())


class _Sent:
    """A send under way. Keeps the host buffer alive until it has left."""

    def __init__(self, request: MPI.Request, host: np.ndarray) -> None:
        self.request, self.host = request, host

    def wait(self) -> None:
        self.request.Wait()


def _back(host: np.ndarray, x: Array) -> None:
    """Copies a staged array back to the device; on NumPy, host is x itself."""
    if host is not x:
        x[...] = to_device(host)
