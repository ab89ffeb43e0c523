"""The smallest program: mpirun -n 4 python lessons/00_hello/first.py"""

import minitrain
from minitrain.runtime.output import print_in_order

with minitrain.launch() as world:
    print_in_order(world, f"rank {world.rank} of {world.size}")
