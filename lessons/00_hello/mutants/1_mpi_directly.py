"""MPI is called behind the communicator's back: it would not work with threads for ranks."""

from mpi4py import MPI

SAYS = "such as mpi4py itself"


def print_in_order(world, text, file=None):
    texts = MPI.COMM_WORLD.gather(text)
    if texts is not None:
        print("\n".join(texts), file=file, flush=True)
