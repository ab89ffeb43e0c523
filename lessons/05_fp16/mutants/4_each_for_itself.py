"""each rank decides by itself: those with an overflow skip, the others step."""


def agree(overflow, world):
    return overflow
