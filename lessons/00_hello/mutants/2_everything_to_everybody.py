"""every rank gets the arrays of all, to use one of them."""


def swap(world, x):
    return world.gather_objects(x)[(world.rank - 1) % world.size]
