"""the texts are sorted alphabetically, not by rank."""


def print_in_order(world, text, file=None):
    texts = sorted(world.gather_objects(text))
    if world.rank == 0:
        print("\n".join(texts), file=file, flush=True)
