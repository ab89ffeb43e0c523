"""MPI is called directly, not through the communicator, so nothing is counted."""

from mpi4py import MPI

SAYS = "nor a library such as mpi4py itself"


def sync_gradients(gradients, group):
    for gradient in gradients:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, gradient, MPI.SUM)
