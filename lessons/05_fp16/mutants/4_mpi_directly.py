"""MPI is called directly, so the communicator counts nothing."""

from mpi4py import MPI

SAYS = "nor a library such as mpi4py itself"


def agree(overflow, world):
    return overflow if world is None else MPI.COMM_WORLD.allreduce(overflow, op=MPI.LOR)
