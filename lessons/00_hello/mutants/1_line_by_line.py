"""each text is flushed separately, so another rank's output can come between two of them."""


def print_in_order(world, text, file=None):
    for one in world.gather_objects(text):
        if world.rank == 0:
            print(one, file=file, flush=True)
