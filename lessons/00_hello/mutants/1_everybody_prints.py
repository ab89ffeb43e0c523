"""every rank gathers the texts, and every rank prints them all."""


def say(world, text, file=None):
    print("\n".join(world.gather_objects(text)), file=file, flush=True)
