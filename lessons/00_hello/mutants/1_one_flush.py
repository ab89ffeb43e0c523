"""each text is printed separately and flushed at the end: on a terminal every line is written at once."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        for one in texts[:-1]:
            print(one, file=file)
        print(texts[-1], file=file, flush=True)
