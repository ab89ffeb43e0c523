"""How ranks talk: communicators over MPI and over threads, the ring, the mesh; and whether they agree."""
