"""First, middle and last each have a loop of their own; chunk by chunk as the docstring says."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator, Tag
from minitrain.sharding import even_shards


def ring_broadcast(comm: Communicator, x: Array, root: int, tag: Tag) -> None:
    n = comm.size
    before, after = (comm.rank - 1) % n, (comm.rank + 1) % n
    chunks = [x[cut] for cut in even_shards(len(x), n)]
    if n == 1:
        return
    if comm.rank == root:
        going = [comm.send(chunk, after, tag, number) for number, chunk in enumerate(chunks)]
    elif after == root:
        going = []
        for number, chunk in enumerate(chunks):
            comm.receive(chunk, before, tag, number)
    else:
        going = []
        for number, chunk in enumerate(chunks):
            comm.receive(chunk, before, tag, number)
            going.append(comm.send(chunk, after, tag, number))
    while going:
        going.pop().wait()
