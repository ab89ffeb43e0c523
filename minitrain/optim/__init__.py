"""Optimizers on flat pieces of the parameters, and gradient clipping by global norm.

An optimizer updates pairs of flat arrays (data, grad), listed by the reducer's `owned`: the whole model under data
parallel; under ZeRO, this rank's shards, cut at any element. There are three kinds of rules:

    Optimizer     element by element: where the shards begin does not matter              SGD, Adam, AdamW
    Layerwise     needs the norm of each parameter: squares are summed over its pieces    LARS, LAMB
    Matrixwise    needs each matrix as a whole: ranks own whole parameters                none here: derive yours

The gradient is `factor` times the array grad. The factor is the clipping coefficient, times 1/S if the loss was
multiplied by S (precision/scaler.py). Scaling one number saves a pass over all gradients, and in half precision the
product might not fit in the array. Parameters in half precision have a float32 master copy, and the rule updates the
master:

    master = master - lr rule(factor grad)        data = master, rounded

Without it, many updates would round to nothing: they are smaller than half the gap between neighboring 16-bit values.
The first update makes the master from the current data. Later, an element of data that differs from its rounded master
was set from outside (by a restored checkpoint, for example), and the master takes its value.
"""

from .base import BLOCK, Layerwise, Matrixwise, Optimizer, Work, blocks
from .clip import clip_grad_norm
from .pieces import SMALL, Alone, Found, Held, Owned, Piece, Slices, Totals, steps_begun, unscaled
from .rules import LAMB, LARS, SGD, Adam, AdamW, adam_step, adamw_step
from .state import Part, State, fitting

__all__ = [
    "BLOCK",
    "LAMB",
    "LARS",
    "SGD",
    "SMALL",
    "Adam",
    "AdamW",
    "Alone",
    "Found",
    "Held",
    "Layerwise",
    "Matrixwise",
    "Optimizer",
    "Owned",
    "Part",
    "Piece",
    "Slices",
    "State",
    "Totals",
    "Work",
    "adam_step",
    "adamw_step",
    "blocks",
    "clip_grad_norm",
    "fitting",
    "steps_begun",
    "unscaled",
]
