"""only rank 0 calls gather_objects, and waits forever for the others."""

SAYS = "rank 0 waits in gather_objects"


def print_in_order(world, text, file=None):
    if world.rank == 0:
        print("\n".join(world.gather_objects(text)), file=file, flush=True)
