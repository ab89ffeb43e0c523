"""Communication between ranks: communicators over MPI and threads, ring collectives, the mesh, debug checks."""
