"""spaces and empty lines at the end of a text are removed."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text.rstrip())
    if world.rank == 0:
        print("\n".join(texts), file=file, flush=True)
