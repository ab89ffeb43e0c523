"""the file is closed afterwards, so the caller cannot write to it again."""

import sys


def print_in_order(world, text, file=None):
    texts = world.gather_objects(text)
    if world.rank == 0:
        print("\n".join(texts), file=file, flush=True)
        if file not in (None, sys.stdout):
            file.close()
