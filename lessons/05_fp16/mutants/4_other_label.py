"""another tag is used; OVERFLOW is imported at the top of the file."""

import numpy as np

SAYS = "the bytes are labelled"


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is not None:
        world.all_reduce(flag, ("mesh", "agree"), op="max")
    return bool(flag[0])
