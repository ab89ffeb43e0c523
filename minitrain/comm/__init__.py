"""How ranks talk: communicators, meshes, and the start and end of a parallel program."""
