"""every rank gets the arrays of all ranks and uses one of them."""


def swap(world, x):
    return world.gather_objects(x)[(world.rank - 1) % world.size]
