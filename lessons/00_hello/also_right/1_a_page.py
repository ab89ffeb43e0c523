"""The output is put together in memory, then printed."""

import io


def print_in_order(world, text, file=None):
    page = io.StringIO()
    for one in world.gather_objects(text):
        print(one, file=page)
    if not world.rank:
        print(page.getvalue(), end="", file=file, flush=True)
