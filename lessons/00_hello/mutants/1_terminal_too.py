"""the texts are also printed on the terminal if a file is given."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("\n".join(texts), flush=True)
        if file is not None:
            print("\n".join(texts), file=file, flush=True)
