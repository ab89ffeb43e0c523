"""every rank prints its own text, as it comes."""


def say(world, text, file=None):
    print(text, file=file, flush=True)
