"""there is an empty line at the end: print adds a newline after the last one."""


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("".join(f"{text}\n" for text in texts), file=file, flush=True)
