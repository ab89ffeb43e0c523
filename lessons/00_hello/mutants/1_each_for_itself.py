"""every rank prints its own text, as it comes."""


def print_in_order(world, text, file=None):
    print(text, file=file, flush=True)
