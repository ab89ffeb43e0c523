"""The smallest program: mpirun -n 4 python lessons/00_hello/first.py"""

import minitrain
from minitrain.runtime.say import say

with minitrain.launch() as world:
    say(world, f"rank {world.rank} of {world.size}")
