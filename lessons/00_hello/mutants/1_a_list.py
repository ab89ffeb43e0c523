"""the list itself is printed, not the texts in it."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        print(texts, file=file, flush=True)
