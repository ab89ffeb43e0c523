"""the texts are sorted by the alphabet, not by the ranks."""


def print_in_order(world, text, file=None):
    texts = sorted(world.gather_objects(text))
    if world.rank == 0:
        print("\n".join(texts), file=file, flush=True)
