"""only a file is flushed: what goes to the terminal stays in the buffer."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("\n".join(texts), file=file)
        if file is not None:
            file.flush()
